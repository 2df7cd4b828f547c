-- What the events mean: sessions, contacts, links and owners, from the derived topics.
--
-- A row is an upsert; its version is its offset in the topic, a deleted one says that the thing no longer exists.

CREATE TABLE IF NOT EXISTS session_rows
(
    `portal_id` UInt64 COMMENT 'Portal of the session',
    `utk` String COMMENT 'Visitor cookie',
    `session_id` UUID COMMENT 'Id, derived from portal, cookie and first event',
    `number` UInt32 COMMENT '1, 2, 3 ... per cookie in time order',
    `first_event_id` UUID COMMENT 'Event that the session starts with',
    `started_at` DateTime64(3, 'UTC') COMMENT 'Time of the first event',
    `ended_at` DateTime64(3, 'UTC') COMMENT 'Time of the last event',
    `last_event_id` UUID COMMENT 'Event that the session ends with',
    `previous_started_at` Nullable(DateTime64(3, 'UTC')) COMMENT 'Start of the session before',
    `activity_count` UInt32 COMMENT 'Number of events',
    `page_view_count` UInt32 COMMENT 'Number of page views',
    `entry_url` Nullable(String) COMMENT 'Address of the first page view',
    `exit_url` Nullable(String) COMMENT 'Address of the last page view',
    `source` LowCardinality(Nullable(String)) COMMENT 'Traffic source of the first page view with a known one',
    `version` UInt64 COMMENT 'Offset in the topic',
    `deleted` UInt8 COMMENT 'Whether the session no longer exists'
)
ENGINE = ReplacingMergeTree(version, deleted)
ORDER BY (portal_id, utk, session_id)
SETTINGS index_granularity = 2048
COMMENT 'Sessions, as upserts';

CREATE TABLE IF NOT EXISTS contact_rows
(
    `portal_id` UInt64 COMMENT 'Portal of the contact',
    `contact_id` UUID COMMENT 'Id of the contact',
    `email` Nullable(String) COMMENT 'Address now',
    `former_emails` Array(String) COMMENT 'Earlier addresses in the order of their replacement',
    `external_id` Nullable(String) COMMENT 'Id of the person elsewhere',
    `created_at` DateTime64(3, 'UTC') COMMENT 'Time of the event that made the contact',
    `created_by` UUID COMMENT 'Event that made the contact',
    `version` UInt64 COMMENT 'Offset in the topic',
    `deleted` UInt8 COMMENT 'Whether the contact no longer exists'
)
ENGINE = ReplacingMergeTree(version, deleted)
ORDER BY (portal_id, contact_id)
SETTINGS index_granularity = 2048
COMMENT 'Contacts, as upserts';

CREATE TABLE IF NOT EXISTS link_rows
(
    `portal_id` UInt64 COMMENT 'Portal of the link',
    `utk` String COMMENT 'Visitor cookie',
    `evidence` UUID COMMENT 'Event that caused the link',
    `contact_id` UUID COMMENT 'Contact that the cookie belonged to',
    `status` LowCardinality(String) COMMENT 'bound, or temporary (a guess)',
    `valid_from` Nullable(DateTime64(3, 'UTC')) COMMENT 'First moment, NULL for the beginning of time',
    `valid_to` Nullable(DateTime64(3, 'UTC')) COMMENT 'First moment after it, NULL while it is open',
    `rule` LowCardinality(String) COMMENT 'Rule that made the link',
    `version` UInt64 COMMENT 'Offset in the topic',
    `deleted` UInt8 COMMENT 'Whether the link no longer exists'
)
ENGINE = ReplacingMergeTree(version, deleted)
ORDER BY (portal_id, utk, evidence)
SETTINGS index_granularity = 2048
COMMENT 'Links between cookies and contacts, as upserts';

-- What evidence resolved to. `by_cookie`: to nobody by itself, so that it belongs to the owner of its cookie.
CREATE TABLE IF NOT EXISTS evidence_owner_rows
(
    `portal_id` UInt64 COMMENT 'Portal of the event',
    `event_id` UUID COMMENT 'The evidence',
    `contact_id` Nullable(UUID) COMMENT 'Contact that it resolved to, NULL for none',
    `rule` LowCardinality(String) COMMENT 'Rule that applied',
    `by_cookie` Bool COMMENT 'Whether the event belongs to the owner of its cookie',
    `version` UInt64 COMMENT 'Offset in the topic',
    `deleted` UInt8 COMMENT 'Whether the event is no evidence any more'
)
ENGINE = ReplacingMergeTree(version, deleted)
ORDER BY (portal_id, event_id)
SETTINGS index_granularity = 2048
COMMENT 'Owners of evidence events, as upserts';

-- Ways from a contact to its events: the cookies and the evidence that are, or once were, the contact's. A row only says
-- where to look, never what is true now, so rows are never taken back.
CREATE TABLE IF NOT EXISTS contact_cookies
(
    `portal_id` UInt64 COMMENT 'Portal of the contact',
    `contact_id` UUID COMMENT 'The contact',
    `utk` String COMMENT 'A cookie that is or was linked to it'
)
ENGINE = ReplacingMergeTree
ORDER BY (portal_id, contact_id, utk)
SETTINGS index_granularity = 2048
COMMENT 'Cookies to look at for a contact';

CREATE MATERIALIZED VIEW IF NOT EXISTS link_rows_to_contact_cookies TO contact_cookies AS
SELECT portal_id, contact_id, utk FROM link_rows WHERE NOT deleted;

CREATE TABLE IF NOT EXISTS contact_evidence
(
    `portal_id` UInt64 COMMENT 'Portal of the contact',
    `contact_id` UUID COMMENT 'The contact',
    `event_id` UUID COMMENT 'Evidence that belongs or belonged to it',
    `id_hash` UInt64 COMMENT 'sipHash64(portal_id, event_id)'
)
ENGINE = ReplacingMergeTree
ORDER BY (portal_id, contact_id, event_id)
SETTINGS index_granularity = 2048
COMMENT 'Evidence to look at for a contact';

CREATE MATERIALIZED VIEW IF NOT EXISTS evidence_owner_rows_to_contact_evidence TO contact_evidence AS
SELECT portal_id, assumeNotNull(evidence_owner_rows.contact_id) AS contact_id, event_id, sipHash64(portal_id, event_id) AS id_hash
FROM evidence_owner_rows
WHERE NOT deleted AND evidence_owner_rows.contact_id IS NOT NULL;

-- Which contacts have or had an address.
CREATE TABLE IF NOT EXISTS contact_addresses
(
    `portal_id` UInt64 COMMENT 'Portal of the contact',
    `email` String COMMENT 'An address that is or was the contact''s',
    `contact_id` UUID COMMENT 'The contact'
)
ENGINE = ReplacingMergeTree
ORDER BY (portal_id, email, contact_id)
SETTINGS index_granularity = 2048
COMMENT 'Contacts to look at for an address';

CREATE MATERIALIZED VIEW IF NOT EXISTS contact_rows_to_addresses TO contact_addresses AS
SELECT portal_id, arrayJoin(arrayPushFront(former_emails, assumeNotNull(ifNull(contact_rows.email, '')))) AS email, contact_id
FROM contact_rows
WHERE NOT deleted;

-- Records that could not become events, and copies that contradict their event.
CREATE TABLE IF NOT EXISTS failed_rows
(
    `id` String COMMENT 'What failed: topic, partition and offset; or the hash of a line; or event and copy',
    `reason` LowCardinality(String) COMMENT 'Why, from the closed set of reasons',
    `detail` String COMMENT 'The field and what was expected of it',
    `topic` LowCardinality(String) COMMENT 'Topic of the record, empty for a line that was never published',
    `partition` Nullable(Int32) COMMENT 'Partition of the record',
    `offset` Nullable(Int64) COMMENT 'Offset of the record',
    `timestamp` Nullable(DateTime64(3, 'UTC')) COMMENT 'When the record was published',
    `part` LowCardinality(String) COMMENT 'Part of the pipeline that refused it',
    `portal_id` Nullable(UInt64) COMMENT 'Portal, for contradicting copies',
    `event_id` Nullable(UUID) COMMENT 'Event, for contradicting copies',
    `key` Nullable(String) COMMENT 'Key of the record, its bytes',
    `value` String COMMENT 'The record, its bytes',
    `version` UInt64 COMMENT 'Number of different copies known when written, 0 for records',
    `deleted` UInt8 COMMENT 'Whether the copy does not contradict any more'
)
ENGINE = ReplacingMergeTree(version, deleted)
ORDER BY id
COMMENT 'Failed records and contradicting copies, as upserts';
