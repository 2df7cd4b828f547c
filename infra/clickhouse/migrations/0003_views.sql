-- What readers see: always the current truth, one row per thing, absent values as NULL.
--
-- Sessions and ownership are intervals on the axis of a cookie, found by ASOF JOIN. Events are ordered by time and then by
-- id as text, so a place on the axis of sessions is a number of 64 + 128 bits; toUInt128 of a UUID has the order of its text (the
-- order of type UUID has not). Links cover times, so theirs is the time alone. The right sides of the outer joins are
-- Nullable, so that nothing depends on the reader's setting of join_use_nulls.

CREATE VIEW IF NOT EXISTS contacts
(
    `portal_id` UInt64 COMMENT 'Portal (customer account)',
    `contact_id` UUID COMMENT 'Id of the contact',
    `email` Nullable(String) COMMENT 'Address now',
    `former_emails` Array(String) COMMENT 'Earlier addresses in the order of their replacement',
    `external_id` Nullable(String) COMMENT 'Id of the person elsewhere',
    `created_at` DateTime64(3, 'UTC') COMMENT 'Time of the event that made the contact',
    `created_by` UUID COMMENT 'Event that made the contact'
) AS
SELECT portal_id, contact_id, email, former_emails, external_id, created_at, created_by
FROM contact_rows FINAL
COMMENT 'People, one row each';

CREATE VIEW IF NOT EXISTS links
(
    `portal_id` UInt64 COMMENT 'Portal (customer account)',
    `utk` String COMMENT 'Visitor cookie',
    `contact_id` UUID COMMENT 'Contact that the cookie belonged to',
    `status` LowCardinality(String) COMMENT 'bound, or temporary: a guess after a forwarded mail',
    `valid_from` Nullable(DateTime64(3, 'UTC')) COMMENT 'First moment, NULL for the beginning of time',
    `valid_to` Nullable(DateTime64(3, 'UTC')) COMMENT 'First moment after it, NULL while it is open',
    `rule` LowCardinality(String) COMMENT 'Rule that made the link',
    `evidence` UUID COMMENT 'Event that caused the link'
) AS
SELECT portal_id, utk, contact_id, status, valid_from, valid_to, rule, evidence
FROM link_rows FINAL
COMMENT 'Who owned which visitor cookie when, one row per stretch of ownership';

CREATE VIEW IF NOT EXISTS sessions
(
    `portal_id` UInt64 COMMENT 'Portal (customer account)',
    `utk` String COMMENT 'Visitor cookie',
    `session_id` UUID COMMENT 'Id of the session',
    `number` UInt32 COMMENT '1, 2, 3 ... per cookie in time order',
    `started_at` DateTime64(3, 'UTC') COMMENT 'Time of its first event',
    `ended_at` DateTime64(3, 'UTC') COMMENT 'Time of its last event',
    `previous_started_at` Nullable(DateTime64(3, 'UTC')) COMMENT 'Start of the session before, NULL for the first',
    `activity_count` UInt32 COMMENT 'Number of its events',
    `page_view_count` UInt32 COMMENT 'Number of its page views',
    `entry_url` Nullable(String) COMMENT 'Address of its first page view',
    `exit_url` Nullable(String) COMMENT 'Address of its last page view',
    `source` Nullable(String) COMMENT 'Where the visit came from: campaign, click id or referring host'
) AS
SELECT portal_id, utk, session_id, number, started_at, ended_at, previous_started_at, activity_count, page_view_count, entry_url, exit_url, source
FROM session_rows FINAL
COMMENT 'Stretches of activity of one cookie, one row each';

CREATE VIEW IF NOT EXISTS events
(
    `portal_id` UInt64 COMMENT 'Portal (customer account)',
    `event_id` UUID COMMENT 'Id of the event within its portal',
    `type` LowCardinality(String) COMMENT 'page_view, email_click, form_submission, identify, custom_event or contact_import',
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
    `name` Nullable(String) COMMENT 'Custom events: name'
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
    nullIf(event_rows.name, '') AS name
FROM event_rows FINAL
WHERE NOT hidden
COMMENT 'All events with all their fields, one row each';

-- Every event with its owner and its session, and where asked only what matters to one portal (not 0), contact or cookie (not empty):
-- the conditions on the parameters narrow what is read and are folded away without them. `contact` keeps every event of the
-- contact, and others. This is the one definition of ownership in SQL; the views below say the same in the reader's terms.
CREATE VIEW IF NOT EXISTS owned_events_of AS
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
    e.type IN ('form_submission', 'email_click', 'identify', 'contact_import') AS is_evidence,
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
    e.bot AS bot, e.form_id AS form_id, e.email AS email, e.page_url AS page_url, e.fields AS fields, e.external_id AS external_id, e.name AS name
FROM
(
    SELECT *, bitShiftLeft(toUInt256(toUnixTimestamp64Milli(occurred_at)), 128) + toUInt256(toUInt128(event_id)) AS place
    FROM event_rows FINAL
    WHERE NOT hidden
        AND ({portal:UInt64} = 0 OR portal_id = {portal:UInt64})
        AND ({cookie:String} = '' OR utk = {cookie:String})
        AND ({contact:String} = '' OR utk IN contact_cookie OR (utk, event_id) IN contact_evidence_place)
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

CREATE VIEW IF NOT EXISTS event_owners
(
    `portal_id` UInt64 COMMENT 'Portal (customer account)',
    `event_id` UUID COMMENT 'Id of the event within its portal',
    `type` LowCardinality(String) COMMENT 'Type of the event',
    `occurred_at` DateTime64(3, 'UTC') COMMENT 'When it happened',
    `utk` Nullable(String) COMMENT 'Visitor cookie',
    `contact_id` Nullable(UUID) COMMENT 'Contact that owns the event',
    `temporary_contact_id` Nullable(UUID) COMMENT 'Contact that possibly owns it: a guess, after a forwarded mail',
    `session_id` Nullable(UUID) COMMENT 'Session of its cookie that contains it',
    `session_number` Nullable(UInt32) COMMENT 'Number of that session among those of the cookie',
    `rule` LowCardinality(String) COMMENT 'Rule that gave it its owner; pending: evidence that has just arrived and is not resolved yet',
    `evidence` Nullable(UUID) COMMENT 'Event that caused the link to the owner or possible owner; NULL: by itself, or nobody''s'
) AS
SELECT portal_id, event_id, type, occurred_at, nullIf(cookie, '') AS utk, contact_id, temporary_contact_id, session_id, session_number, rule, evidence
FROM owned_events_of(portal = 0, contact = '', cookie = '')
COMMENT 'Whose each event is, and why; one row per event';

CREATE VIEW IF NOT EXISTS timeline
(
    `portal_id` UInt64 COMMENT 'Portal (customer account)',
    `contact_id` Nullable(UUID) COMMENT 'Contact that owns the event; filter by it for that contact''s timeline',
    `email` Nullable(String) COMMENT 'Address of that contact now',
    `occurred_at` DateTime64(3, 'UTC') COMMENT 'When it happened; a timeline is in the order of occurred_at and toString(event_id)',
    `event_id` UUID COMMENT 'Id of the event within its portal',
    `type` LowCardinality(String) COMMENT 'page_view, email_click, form_submission, identify, custom_event or contact_import',
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
    `properties` Nullable(String) COMMENT 'Further properties, a JSON object as text'
) AS
SELECT
    e.portal_id AS portal_id, e.contact_id AS contact_id, c.email AS email, e.occurred_at AS occurred_at, e.event_id AS event_id, e.type AS type,
    nullIf(e.cookie, '') AS utk, e.session_id AS session_id, e.session_number AS session_number, e.session_started_at AS session_started_at,
    e.session_source AS session_source, e.rule AS rule, e.evidence AS evidence, e.temporary_contact_id AS temporary_contact_id,
    nullIf(e.url, '') AS url, nullIf(e.title, '') AS title, nullIf(e.referrer, '') AS referrer, nullIf(e.form_id, '') AS form_id,
    nullIf(e.page_url, '') AS page_url, e.fields AS fields, nullIf(e.email, '') AS given_email, nullIf(e.recipient_email, '') AS recipient_email,
    nullIf(e.send_id, '') AS send_id, if(e.type = 'email_click', e.bot, NULL) AS bot, nullIf(e.external_id, '') AS external_id,
    nullIf(e.name, '') AS name, nullIf(e.properties, '') AS properties
FROM owned_events_of(portal = 0, contact = '', cookie = '') AS e
LEFT JOIN (SELECT portal_id, contact_id, email FROM contact_rows FINAL) AS c ON c.portal_id = e.portal_id AND c.contact_id = e.contact_id
COMMENT 'Events with owner, session and contact; filtered by portal_id and contact_id or email, the timeline of that contact';

-- The same for one contact or cookie, reading only what is theirs: timeline_of(portal = 1, contact = '...', cookie = ''). Give one of
-- them and leave the other empty; a contact's rows are those that it owns, a cookie's are all.
CREATE VIEW IF NOT EXISTS timeline_of AS
SELECT
    e.portal_id AS portal_id, e.contact_id AS contact_id, c.email AS email, e.occurred_at AS occurred_at, e.event_id AS event_id, e.type AS type,
    nullIf(e.cookie, '') AS utk, e.session_id AS session_id, e.session_number AS session_number, e.session_started_at AS session_started_at,
    e.session_source AS session_source, e.rule AS rule, e.evidence AS evidence, e.temporary_contact_id AS temporary_contact_id,
    nullIf(e.url, '') AS url, nullIf(e.title, '') AS title, nullIf(e.referrer, '') AS referrer, nullIf(e.form_id, '') AS form_id,
    nullIf(e.page_url, '') AS page_url, e.fields AS fields, nullIf(e.email, '') AS given_email, nullIf(e.recipient_email, '') AS recipient_email,
    nullIf(e.send_id, '') AS send_id, if(e.type = 'email_click', e.bot, NULL) AS bot, nullIf(e.external_id, '') AS external_id,
    nullIf(e.name, '') AS name, nullIf(e.properties, '') AS properties
FROM owned_events_of(portal = {portal:UInt64}, contact = {contact:String}, cookie = {cookie:String}) AS e
LEFT JOIN (SELECT portal_id, contact_id, email FROM contact_rows FINAL WHERE portal_id = {portal:UInt64}
    AND ({contact:String} = '' OR contact_id = toUUIDOrZero({contact:String}))) AS c
    ON c.portal_id = e.portal_id AND c.contact_id = e.contact_id
WHERE {contact:String} = '' OR e.contact_id = toUUIDOrZero({contact:String});

CREATE VIEW IF NOT EXISTS failed_events
(
    `reason` LowCardinality(String) COMMENT 'Why it failed, from a closed set; conflicting_duplicate: a copy that contradicts its event',
    `detail` String COMMENT 'The field and what was expected of it',
    `topic` String COMMENT 'Topic that the record is in, empty for a line that was never published',
    `partition` Nullable(Int32) COMMENT 'Partition of that topic',
    `offset` Nullable(Int64) COMMENT 'Offset in that partition',
    `timestamp` Nullable(DateTime64(3, 'UTC')) COMMENT 'When the record was published',
    `part` LowCardinality(String) COMMENT 'Part of the pipeline that refused it',
    `portal_id` Nullable(UInt64) COMMENT 'Portal, for contradicting copies',
    `event_id` Nullable(UUID) COMMENT 'Event, for contradicting copies',
    `key` Nullable(String) COMMENT 'Key of the record, its bytes',
    `value` String COMMENT 'The record or line, its bytes'
) AS
SELECT reason, detail, topic, partition, offset, timestamp, part, portal_id, event_id, key, value
FROM failed_rows FINAL
COMMENT 'Records that could not become events, and copies that contradict their event; one row each';
