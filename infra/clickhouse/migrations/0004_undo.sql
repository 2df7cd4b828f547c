-- Retractions and merges: their fields, what is retracted, and views that show what counts.
--
-- What is retracted stays in `event_rows` as it is. `retracted_rows` says of events that retractions name whether they count; `record` writes it
-- (pipeline/adapters/retracting.py). It has the order of `event_rows`, so that a view of one contact or cookie reads only what is theirs of both.

ALTER TABLE event_arrivals
    ADD COLUMN IF NOT EXISTS `retracts` String COMMENT 'Retractions: id of the event that never happened' AFTER name,
    ADD COLUMN IF NOT EXISTS `primary` String COMMENT 'Merges: address of the contact that stays' AFTER retracts,
    ADD COLUMN IF NOT EXISTS `secondary` String COMMENT 'Merges: address of the contact that is merged into it' AFTER primary;

ALTER TABLE event_rows
    ADD COLUMN IF NOT EXISTS `retracts` String COMMENT 'Retractions: id of the event that never happened' AFTER name,
    ADD COLUMN IF NOT EXISTS `primary` String COMMENT 'Merges: address of the contact that stays' AFTER retracts,
    ADD COLUMN IF NOT EXISTS `secondary` String COMMENT 'Merges: address of the contact that is merged into it' AFTER primary;

-- Copies of the earlier types keep their hashes.
ALTER TABLE event_arrivals_to_rows MODIFY QUERY
SELECT
    portal_id,
    utk,
    toUUID(event_arrivals.event_id) AS event_id,
    multiIf(
        event_arrivals.copy != 0, event_arrivals.copy,
        type IN ('retraction', 'contact_merge'), bitOr(2, sipHash64(
            portal_id, utk, event_arrivals.event_id, type, event_arrivals.occurred_at, event_arrivals.received_at,
            properties, retracts, primary, secondary)),
        bitOr(2, sipHash64(
            portal_id, utk, event_arrivals.event_id, type, event_arrivals.occurred_at, event_arrivals.received_at,
            url, title, referrer, user_agent, ip, new_browser_session, hstc, hssc, properties,
            recipient_email, send_id, bot, form_id, email, page_url, fields, create_new_contact, use_cookie, external_id, name))) AS copy,
    version,
    hidden,
    type,
    fromUnixTimestamp64Milli(event_arrivals.occurred_at, 'UTC') AS occurred_at,
    fromUnixTimestamp64Milli(event_arrivals.received_at, 'UTC') AS received_at,
    url, title, referrer, user_agent, ip, new_browser_session, hstc, hssc, properties,
    recipient_email, send_id, bot, form_id, email, page_url, fields, create_new_contact, use_cookie, external_id, name,
    retracts, primary, secondary,
    kafka_partition, kafka_offset
FROM event_arrivals;

-- Which events a retraction connects, in any copy, by the hashes of `event_copies`; each pair stands in it both ways.
CREATE TABLE IF NOT EXISTS retraction_pairs
(
    `id_hash` UInt64 COMMENT 'sipHash64(portal_id, event_id) of one of the two',
    `beside` UInt64 COMMENT 'sipHash64(portal_id, event_id) of the other'
)
ENGINE = ReplacingMergeTree
ORDER BY (id_hash, beside)
SETTINGS index_granularity = 1024
COMMENT 'Retractions and the events that they name';

CREATE MATERIALIZED VIEW IF NOT EXISTS event_rows_to_retraction_pairs TO retraction_pairs AS
SELECT pair.1 AS id_hash, pair.2 AS beside
FROM
(
    SELECT
        sipHash64(portal_id, event_id) AS itself,
        sipHash64(portal_id, toUUIDOrZero(retracts)) AS named,
        arrayJoin([(itself, named), (named, itself)]) AS pair
    FROM event_rows
    WHERE type = 'retraction' AND version = 1
);

CREATE TABLE IF NOT EXISTS retracted_rows
(
    `portal_id` UInt64 COMMENT 'Portal of the event',
    `utk` String COMMENT 'Visitor cookie of the event or of a copy of it, empty if absent',
    `event_id` UUID COMMENT 'An event that a retraction names, or a retraction',
    `retracted` UInt8 COMMENT 'Whether it is retracted',
    `retracted_by` Nullable(UUID) COMMENT 'The newest retraction that acts on it',
    `version` UInt64 COMMENT 'Number of different copies that were known of all that hangs together with it'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (portal_id, utk, event_id)
SETTINGS index_granularity = 2048
COMMENT 'What is retracted, as upserts';

ALTER TABLE contact_rows ADD COLUMN IF NOT EXISTS `merged_into` Nullable(UUID) COMMENT 'Contact that it turned out to be' AFTER created_by;

CREATE OR REPLACE VIEW contacts
(
    `portal_id` UInt64 COMMENT 'Portal (customer account)',
    `contact_id` UUID COMMENT 'Id of the contact',
    `email` Nullable(String) COMMENT 'Address now',
    `former_emails` Array(String) COMMENT 'Earlier addresses in the order of their replacement',
    `external_id` Nullable(String) COMMENT 'Id of the person elsewhere',
    `created_at` DateTime64(3, 'UTC') COMMENT 'Time of the event that made the contact',
    `created_by` UUID COMMENT 'Event that made the contact',
    `merged_into` Nullable(UUID) COMMENT 'Contact that this one turned out to be, and that has all it had; NULL for all others'
) AS
SELECT portal_id, contact_id, email, former_emails, external_id, created_at, created_by, merged_into
FROM contact_rows FINAL
COMMENT 'People, one row each; with merged_into IS NULL each person once';

CREATE OR REPLACE VIEW events
(
    `portal_id` UInt64 COMMENT 'Portal (customer account)',
    `event_id` UUID COMMENT 'Id of the event within its portal',
    `type` LowCardinality(String) COMMENT 'page_view, email_click, form_submission, identify, custom_event, contact_import, retraction or contact_merge',
    `occurred_at` DateTime64(3, 'UTC') COMMENT 'When it happened',
    `received_at` Nullable(DateTime64(3, 'UTC')) COMMENT 'When the collector received it',
    `utk` Nullable(String) COMMENT 'Visitor cookie',
    `url` Nullable(String) COMMENT 'Page views and email clicks: the address',
    `title` Nullable(String) COMMENT 'Page views: title of the page',
    `referrer` Nullable(String) COMMENT 'Page views: the page before',
    `user_agent` Nullable(String) COMMENT 'The browser as it names itself',
    `ip` Nullable(String) COMMENT 'Network address, possibly shortened',
    `new_browser_session` Nullable(Bool) COMMENT 'Page views: whether the browser was restarted',
    `hstc` Nullable(String) COMMENT 'Page views: raw __hstc cookie',
    `hssc` Nullable(String) COMMENT 'Page views: raw __hssc cookie',
    `properties` Nullable(String) COMMENT 'Further properties: a JSON object as text, to be read with properties::JSON or JSONExtract',
    `recipient_email` Nullable(String) COMMENT 'Email clicks: address the mail went to',
    `send_id` Nullable(String) COMMENT 'Email clicks: the sending',
    `bot` Nullable(Bool) COMMENT 'Email clicks: whether a machine made it',
    `form_id` Nullable(String) COMMENT 'Form submissions: the form',
    `email` Nullable(String) COMMENT 'Form submissions, identify calls, imports: the address given',
    `page_url` Nullable(String) COMMENT 'Form submissions: page of the form',
    `fields` Array(Tuple(name String, value String)) COMMENT 'Form submissions: fields in their order, empty if absent',
    `create_new_contact` Nullable(Bool) COMMENT 'Form submissions: whether an unknown address makes a new contact',
    `use_cookie` Nullable(Bool) COMMENT 'Form submissions: whether the cookie says who it is',
    `external_id` Nullable(String) COMMENT 'Identify calls and imports: id of the person elsewhere',
    `name` Nullable(String) COMMENT 'Custom events: name',
    `retracts` Nullable(UUID) COMMENT 'Retractions: the event that never happened',
    `primary` Nullable(String) COMMENT 'Merges: address of the contact that stays',
    `secondary` Nullable(String) COMMENT 'Merges: address of the contact that is merged into it'
) AS
SELECT
    portal_id,
    event_id,
    type,
    occurred_at,
    nullIf(event_rows.received_at, toDateTime64(0, 3, 'UTC')) AS received_at,
    nullIf(event_rows.utk, '') AS utk,
    nullIf(event_rows.url, '') AS url,
    nullIf(event_rows.title, '') AS title,
    nullIf(event_rows.referrer, '') AS referrer,
    nullIf(event_rows.user_agent, '') AS user_agent,
    nullIf(event_rows.ip, '') AS ip,
    if(type = 'page_view', event_rows.new_browser_session, NULL) AS new_browser_session,
    nullIf(event_rows.hstc, '') AS hstc,
    nullIf(event_rows.hssc, '') AS hssc,
    nullIf(event_rows.properties, '') AS properties,
    nullIf(event_rows.recipient_email, '') AS recipient_email,
    nullIf(event_rows.send_id, '') AS send_id,
    if(type = 'email_click', event_rows.bot, NULL) AS bot,
    nullIf(event_rows.form_id, '') AS form_id,
    nullIf(event_rows.email, '') AS email,
    nullIf(event_rows.page_url, '') AS page_url,
    fields,
    if(type = 'form_submission', event_rows.create_new_contact, NULL) AS create_new_contact,
    if(type = 'form_submission', event_rows.use_cookie, NULL) AS use_cookie,
    nullIf(event_rows.external_id, '') AS external_id,
    nullIf(event_rows.name, '') AS name,
    toUUIDOrNull(event_rows.retracts) AS retracts,
    nullIf(event_rows.primary, '') AS primary,
    nullIf(event_rows.secondary, '') AS secondary
FROM event_rows FINAL
WHERE NOT hidden AND (portal_id, event_rows.utk, event_id) NOT IN (SELECT portal_id, utk, event_id FROM retracted_rows FINAL WHERE retracted)
COMMENT 'All events that count, with all their fields, one row each';

CREATE OR REPLACE VIEW retracted_events
(
    `portal_id` UInt64 COMMENT 'Portal (customer account)',
    `event_id` UUID COMMENT 'Id of the event within its portal',
    `type` LowCardinality(String) COMMENT 'Type of the event',
    `occurred_at` DateTime64(3, 'UTC') COMMENT 'When it was said to have happened',
    `utk` Nullable(String) COMMENT 'Visitor cookie',
    `retracted_by` Nullable(UUID) COMMENT 'The newest retraction that acts on it'
) AS
SELECT portal_id, event_id, type, occurred_at, nullIf(e.utk, '') AS utk, r.retracted_by AS retracted_by
FROM
(
    SELECT portal_id, utk, event_id, type, occurred_at FROM event_rows FINAL
    WHERE NOT hidden AND (portal_id, utk, event_id) IN (SELECT portal_id, utk, event_id FROM retracted_rows FINAL WHERE retracted)
) AS e
INNER JOIN (SELECT portal_id, utk, event_id, retracted_by FROM retracted_rows FINAL WHERE retracted) AS r USING (portal_id, utk, event_id)
COMMENT 'Events that do not count any more, and are in no other view; one row per event';

-- Every event that counts with its owner and its session, and where asked only what matters to one portal (not 0), contact or cookie (not empty):
-- the conditions on the parameters narrow what is read and are folded away without them. `contact` keeps every event of the
-- contact, and others. This is the one definition of ownership in SQL; the views below say the same in the reader's terms.
CREATE OR REPLACE VIEW owned_events_of AS
WITH
    contact_cookie AS
    (
        SELECT utk FROM contact_cookies
        WHERE portal_id = {portal:UInt64} AND contact_id = toUUIDOrZero({contact:String})
    ),
    contact_evidence_place AS
    (
        SELECT utk, event_id FROM event_copies
        WHERE id_hash IN (SELECT id_hash FROM contact_evidence WHERE portal_id = {portal:UInt64} AND contact_id = toUUIDOrZero({contact:String}))
            AND portal_id = {portal:UInt64}
    )
SELECT
    e.portal_id AS portal_id,
    e.utk AS cookie,
    e.event_id AS event_id,
    e.type AS type,
    e.occurred_at AS occurred_at,
    e.type IN ('form_submission', 'email_click', 'identify', 'contact_import', 'contact_merge') AS is_evidence,
    NOT is_evidence OR ifNull(o.by_cookie, false) AS by_cookie,
    by_cookie AND isNotNull(l.contact_id) AND e.occurred_at < ifNull(l.valid_to, toDateTime64('2299-01-01 00:00:00', 3, 'UTC')) AS is_linked,
    multiIf(NOT by_cookie, o.contact_id, is_linked AND l.status = 'bound', l.contact_id, NULL) AS contact_id,
    if(is_linked AND l.status = 'temporary', l.contact_id, NULL) AS temporary_contact_id,
    multiIf(is_evidence, ifNull(o.rule, 'pending'), NOT is_linked, 'cookie.unknown', l.status = 'bound', 'cookie.bound', 'cookie.temporary') AS rule,
    if(is_linked, l.evidence, NULL) AS evidence,
    e.type != 'contact_import' AND NOT (e.type = 'email_click' AND e.bot) AND ifNull(e.place <= s.last_place, false) AS is_in_session,
    if(is_in_session, s.session_id, NULL) AS session_id,
    if(is_in_session, s.number, NULL) AS session_number,
    if(is_in_session, s.started_at, NULL) AS session_started_at,
    if(is_in_session, s.source, NULL) AS session_source,
    e.url AS url, e.title AS title, e.referrer AS referrer, e.properties AS properties, e.recipient_email AS recipient_email, e.send_id AS send_id,
    e.bot AS bot, e.form_id AS form_id, e.email AS email, e.page_url AS page_url, e.fields AS fields, e.external_id AS external_id, e.name AS name,
    e.primary AS primary, e.secondary AS secondary
FROM
(
    SELECT *, bitShiftLeft(toUInt256(toUnixTimestamp64Milli(occurred_at)), 128) + toUInt256(toUInt128(event_id)) AS place
    FROM event_rows FINAL
    WHERE NOT hidden
        AND ({portal:UInt64} = 0 OR portal_id = {portal:UInt64})
        AND ({cookie:String} = '' OR utk = {cookie:String})
        AND ({contact:String} = '' OR utk IN contact_cookie OR (utk, event_id) IN contact_evidence_place)
        AND (portal_id, utk, event_id) NOT IN (
            SELECT portal_id, utk, event_id FROM retracted_rows FINAL
            WHERE retracted
                AND ({portal:UInt64} = 0 OR portal_id = {portal:UInt64})
                AND ({cookie:String} = '' OR utk = {cookie:String})
                AND ({contact:String} = '' OR utk IN contact_cookie OR (utk, event_id) IN contact_evidence_place))
) AS e
LEFT JOIN
(
    SELECT portal_id, event_id, contact_id, toNullable(rule) AS rule, toNullable(by_cookie) AS by_cookie
    FROM evidence_owner_rows FINAL
    WHERE ({portal:UInt64} = 0 OR portal_id = {portal:UInt64})
        AND ({cookie:String} = '' OR event_id IN (SELECT event_id FROM event_rows WHERE portal_id = {portal:UInt64} AND utk = {cookie:String}))
        AND ({contact:String} = '' OR event_id IN (
            SELECT event_id FROM event_rows
            WHERE portal_id = {portal:UInt64} AND (utk IN contact_cookie OR (utk, event_id) IN contact_evidence_place)))
) AS o ON o.portal_id = e.portal_id AND o.event_id = e.event_id
LEFT ASOF JOIN
(
    SELECT portal_id, utk, ifNull(link_rows.valid_from, toDateTime64(0, 3, 'UTC')) AS start,
        toNullable(link_rows.contact_id) AS contact_id, toNullable(toString(link_rows.status)) AS status, valid_to, toNullable(link_rows.evidence) AS evidence
    FROM link_rows FINAL
    WHERE ({portal:UInt64} = 0 OR portal_id = {portal:UInt64})
        AND ({cookie:String} = '' OR utk = {cookie:String})
        AND ({contact:String} = '' OR utk IN contact_cookie)
) AS l ON l.portal_id = e.portal_id AND l.utk = e.utk AND l.start <= e.occurred_at
LEFT ASOF JOIN
(
    SELECT portal_id, utk,
        bitShiftLeft(toUInt256(toUnixTimestamp64Milli(session_rows.started_at)), 128) + toUInt256(toUInt128(first_event_id)) AS first_place,
        toNullable(bitShiftLeft(toUInt256(toUnixTimestamp64Milli(ended_at)), 128) + toUInt256(toUInt128(last_event_id))) AS last_place,
        toNullable(session_rows.session_id) AS session_id, toNullable(session_rows.number) AS number,
        toNullable(session_rows.started_at) AS started_at, session_rows.source AS source
    FROM session_rows FINAL
    WHERE ({portal:UInt64} = 0 OR portal_id = {portal:UInt64})
        AND ({cookie:String} = '' OR utk = {cookie:String})
        AND ({contact:String} = '' OR utk IN contact_cookie OR utk IN (SELECT utk FROM contact_evidence_place))
) AS s ON s.portal_id = e.portal_id AND s.utk = e.utk AND s.first_place <= e.place;

CREATE OR REPLACE VIEW timeline
(
    `portal_id` UInt64 COMMENT 'Portal (customer account)',
    `contact_id` Nullable(UUID) COMMENT 'Contact that owns the event; filter by it for that contact''s timeline',
    `email` Nullable(String) COMMENT 'Address of that contact now',
    `occurred_at` DateTime64(3, 'UTC') COMMENT 'When it happened; a timeline is in the order of occurred_at and toString(event_id)',
    `event_id` UUID COMMENT 'Id of the event within its portal',
    `type` LowCardinality(String) COMMENT 'page_view, email_click, form_submission, identify, custom_event, contact_import or contact_merge; without an owner also retraction',
    `utk` Nullable(String) COMMENT 'Visitor cookie',
    `session_id` Nullable(UUID) COMMENT 'Session of its cookie that contains it',
    `session_number` Nullable(UInt32) COMMENT 'Number of that session among those of the cookie',
    `session_started_at` Nullable(DateTime64(3, 'UTC')) COMMENT 'Start of that session',
    `session_source` Nullable(String) COMMENT 'Traffic source of that session',
    `rule` LowCardinality(String) COMMENT 'Rule that gave the event its owner',
    `evidence` Nullable(UUID) COMMENT 'Event that caused the link to the owner or possible owner; NULL: by itself, or nobody''s',
    `temporary_contact_id` Nullable(UUID) COMMENT 'Contact that possibly owns it: a guess, after a forwarded mail',
    `url` Nullable(String) COMMENT 'Page views and email clicks: the address',
    `title` Nullable(String) COMMENT 'Page views: title of the page',
    `referrer` Nullable(String) COMMENT 'Page views: the page before',
    `form_id` Nullable(String) COMMENT 'Form submissions: the form',
    `page_url` Nullable(String) COMMENT 'Form submissions: page of the form',
    `fields` Array(Tuple(name String, value String)) COMMENT 'Form submissions: fields in their order, empty if absent',
    `given_email` Nullable(String) COMMENT 'Form submissions, identify calls, imports: the address given then',
    `recipient_email` Nullable(String) COMMENT 'Email clicks: address the mail went to',
    `send_id` Nullable(String) COMMENT 'Email clicks: the sending',
    `bot` Nullable(Bool) COMMENT 'Email clicks: whether a machine made it',
    `external_id` Nullable(String) COMMENT 'Identify calls and imports: id of the person elsewhere',
    `name` Nullable(String) COMMENT 'Custom events: name',
    `primary` Nullable(String) COMMENT 'Merges: address of the contact that stays',
    `secondary` Nullable(String) COMMENT 'Merges: address of the contact that is merged into it',
    `properties` Nullable(String) COMMENT 'Further properties, a JSON object as text'
) AS
SELECT
    e.portal_id AS portal_id, e.contact_id AS contact_id, c.email AS email, e.occurred_at AS occurred_at, e.event_id AS event_id, e.type AS type,
    nullIf(e.cookie, '') AS utk, e.session_id AS session_id, e.session_number AS session_number, e.session_started_at AS session_started_at,
    e.session_source AS session_source, e.rule AS rule, e.evidence AS evidence, e.temporary_contact_id AS temporary_contact_id,
    nullIf(e.url, '') AS url, nullIf(e.title, '') AS title, nullIf(e.referrer, '') AS referrer, nullIf(e.form_id, '') AS form_id,
    nullIf(e.page_url, '') AS page_url, e.fields AS fields, nullIf(e.email, '') AS given_email, nullIf(e.recipient_email, '') AS recipient_email,
    nullIf(e.send_id, '') AS send_id, if(e.type = 'email_click', e.bot, NULL) AS bot, nullIf(e.external_id, '') AS external_id,
    nullIf(e.name, '') AS name, nullIf(e.primary, '') AS primary, nullIf(e.secondary, '') AS secondary, nullIf(e.properties, '') AS properties
FROM owned_events_of(portal = 0, contact = '', cookie = '') AS e
LEFT JOIN (SELECT portal_id, contact_id, email FROM contact_rows FINAL) AS c ON c.portal_id = e.portal_id AND c.contact_id = e.contact_id
COMMENT 'Events with owner, session and contact; filtered by portal_id and contact_id or email, the timeline of that contact';

-- The same for one contact or cookie, reading only what is theirs: timeline_of(portal = 1, contact = '...', cookie = ''). Give one of
-- them and leave the other empty; a contact's rows are those that it owns, a cookie's are all.
CREATE OR REPLACE VIEW timeline_of AS
SELECT
    e.portal_id AS portal_id, e.contact_id AS contact_id, c.email AS email, e.occurred_at AS occurred_at, e.event_id AS event_id, e.type AS type,
    nullIf(e.cookie, '') AS utk, e.session_id AS session_id, e.session_number AS session_number, e.session_started_at AS session_started_at,
    e.session_source AS session_source, e.rule AS rule, e.evidence AS evidence, e.temporary_contact_id AS temporary_contact_id,
    nullIf(e.url, '') AS url, nullIf(e.title, '') AS title, nullIf(e.referrer, '') AS referrer, nullIf(e.form_id, '') AS form_id,
    nullIf(e.page_url, '') AS page_url, e.fields AS fields, nullIf(e.email, '') AS given_email, nullIf(e.recipient_email, '') AS recipient_email,
    nullIf(e.send_id, '') AS send_id, if(e.type = 'email_click', e.bot, NULL) AS bot, nullIf(e.external_id, '') AS external_id,
    nullIf(e.name, '') AS name, nullIf(e.primary, '') AS primary, nullIf(e.secondary, '') AS secondary, nullIf(e.properties, '') AS properties
FROM owned_events_of(portal = {portal:UInt64}, contact = {contact:String}, cookie = {cookie:String}) AS e
LEFT JOIN (SELECT portal_id, contact_id, email FROM contact_rows FINAL WHERE portal_id = {portal:UInt64}
    AND ({contact:String} = '' OR contact_id = toUUIDOrZero({contact:String}))) AS c
    ON c.portal_id = e.portal_id AND c.contact_id = e.contact_id
WHERE {contact:String} = '' OR e.contact_id = toUUIDOrZero({contact:String});
