-- Events: every copy of every event as it came, and what the copies of one event say together.
--
-- `event_arrivals` stores nothing: it takes rows as they are cheapest to send (ids and times as text and integers) and feeds the
-- other tables. A row of `event_rows` is a copy, or a merged event (copy = 1) once an event has several different copies:
-- its copies are then written again with `hidden` set and a higher version. So readers take the highest version
-- of each key (FINAL) that is not hidden, and see one row per event. The time is not in the sort key because
-- copies of one event may differ in it. Absent texts are empty, absent times are 1970-01-01: neither is a value that an event can have.

CREATE TABLE IF NOT EXISTS event_arrivals
(
    `portal_id` UInt64 COMMENT 'Portal (customer account) of the event',
    `utk` String COMMENT 'Visitor cookie, empty if absent',
    `event_id` String COMMENT 'Id of the event within its portal, as text',
    `copy` UInt64 COMMENT 'What the row is: 0 a copy that arrives, 1 a merged event, else a known copy',
    `version` UInt32 DEFAULT 1 COMMENT 'Number of different copies that were known when the row was written',
    `hidden` UInt8 COMMENT 'Whether readers do not see the row',
    `batch` UInt64 COMMENT 'The check for other copies that this arrival belongs to, 0 for none',
    `type` String COMMENT 'Type of the event',
    `occurred_at` Int64 COMMENT 'When it happened, epoch milliseconds',
    `received_at` Int64 COMMENT 'When the collector received it, epoch milliseconds, 0 if absent',
    `url` String COMMENT 'Page views and email clicks: the address',
    `title` String COMMENT 'Page views: title of the page',
    `referrer` String COMMENT 'Page views: the page before',
    `user_agent` String COMMENT 'The browser as it names itself',
    `ip` String COMMENT 'Network address, possibly shortened',
    `new_browser_session` UInt8 COMMENT 'Page views: the browser was restarted',
    `hstc` String COMMENT 'Page views: raw __hstc cookie',
    `hssc` String COMMENT 'Page views: raw __hssc cookie',
    `properties` String COMMENT 'Further properties, a JSON object as text',
    `recipient_email` String COMMENT 'Email clicks: address the mail went to',
    `send_id` String COMMENT 'Email clicks: the sending',
    `bot` UInt8 COMMENT 'Email clicks: made by a machine',
    `form_id` String COMMENT 'Form submissions: the form',
    `email` String COMMENT 'Forms, identify calls, imports: the address given',
    `page_url` String COMMENT 'Form submissions: page of the form',
    `fields` Array(Tuple(name String, value String)) COMMENT 'Form submissions: fields in their order',
    `create_new_contact` UInt8 COMMENT 'Form submissions: an unknown address makes a new contact',
    `use_cookie` UInt8 COMMENT 'Form submissions: the cookie says who it is',
    `external_id` String COMMENT 'Identify calls and imports: id of the person elsewhere',
    `name` String COMMENT 'Custom events: name',
    `kafka_partition` UInt16 COMMENT 'Partition of the raw topic that the copy came from',
    `kafka_offset` UInt64 COMMENT 'Offset in that partition'
)
ENGINE = Null;

CREATE TABLE IF NOT EXISTS event_rows
(
    `portal_id` UInt64 COMMENT 'Portal (customer account) of the event',
    `utk` String COMMENT 'Visitor cookie, empty if absent',
    `event_id` UUID COMMENT 'Id of the event within its portal',
    `copy` UInt64 COMMENT 'Hash of what the copy says; 1 for the event that several copies say together',
    `version` UInt32 COMMENT 'Number of different copies that were known when the row was written',
    `hidden` UInt8 COMMENT 'Whether readers do not see the row',
    `type` LowCardinality(String) COMMENT 'Type of the event',
    `occurred_at` DateTime64(3, 'UTC') COMMENT 'When it happened',
    `received_at` DateTime64(3, 'UTC') COMMENT 'When the collector received it, 1970-01-01 if absent',
    `url` String COMMENT 'Page views and email clicks: the address',
    `title` String COMMENT 'Page views: title of the page',
    `referrer` String COMMENT 'Page views: the page before',
    `user_agent` LowCardinality(String) COMMENT 'The browser as it names itself',
    `ip` String COMMENT 'Network address, possibly shortened',
    `new_browser_session` Bool COMMENT 'Page views: the browser was restarted',
    `hstc` String COMMENT 'Page views: raw __hstc cookie',
    `hssc` String COMMENT 'Page views: raw __hssc cookie',
    `properties` String COMMENT 'Further properties, a JSON object as text',
    `recipient_email` String COMMENT 'Email clicks: address the mail went to',
    `send_id` String COMMENT 'Email clicks: the sending',
    `bot` Bool COMMENT 'Email clicks: made by a machine',
    `form_id` LowCardinality(String) COMMENT 'Form submissions: the form',
    `email` String COMMENT 'Forms, identify calls, imports: the address given',
    `page_url` String COMMENT 'Form submissions: page of the form',
    `fields` Array(Tuple(name String, value String)) COMMENT 'Form submissions: fields in their order',
    `create_new_contact` Bool COMMENT 'Form submissions: an unknown address makes a new contact',
    `use_cookie` Bool COMMENT 'Form submissions: the cookie says who it is',
    `external_id` String COMMENT 'Identify calls and imports: id of the person elsewhere',
    `name` LowCardinality(String) COMMENT 'Custom events: name',
    `kafka_partition` UInt16 COMMENT 'Partition of the raw topic that the copy came from',
    `kafka_offset` UInt64 COMMENT 'Offset in that partition',
    INDEX utk_or_null nullIf(utk, '') TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (portal_id, utk, event_id, copy)
SETTINGS index_granularity = 2048
COMMENT 'Copies of events, and merged events';

CREATE MATERIALIZED VIEW IF NOT EXISTS event_arrivals_to_rows TO event_rows AS
SELECT
    portal_id,
    utk,
    toUUID(event_arrivals.event_id) AS event_id,
    if(event_arrivals.copy != 0, event_arrivals.copy, bitOr(2, sipHash64(
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
    kafka_partition, kafka_offset
FROM event_arrivals;

-- Which copies an event has, and where: looked up by id, which the order of `event_rows` does not allow.
CREATE TABLE IF NOT EXISTS event_copies
(
    `id_hash` UInt64 COMMENT 'sipHash64(portal_id, event_id)' CODEC(Delta, LZ4),
    `copy` UInt64 COMMENT 'Hash of what the copy says',
    `portal_id` UInt64 COMMENT 'Portal of the event',
    `utk` String COMMENT 'Visitor cookie of the copy, empty if absent' CODEC(ZSTD(1)),
    `event_id` UUID COMMENT 'Id of the event'
)
ENGINE = ReplacingMergeTree
ORDER BY (id_hash, copy)
SETTINGS index_granularity = 1024
COMMENT 'Places of the copies of each event, by event id';

CREATE MATERIALIZED VIEW IF NOT EXISTS event_rows_to_copies TO event_copies AS
SELECT sipHash64(portal_id, event_id) AS id_hash, copy, portal_id, utk, event_id
FROM event_rows
WHERE version = 1;

-- Events that arrived and whose other copies have not been looked for. Only `record` reads it, shortly after.
CREATE TABLE IF NOT EXISTS event_checks
(
    `batch` UInt64 COMMENT 'The check that the arrival belongs to',
    `id_hash` UInt64 COMMENT 'sipHash64(portal_id, event_id)',
    `arrived_at` DateTime DEFAULT now() COMMENT 'When it arrived; forgotten a day later'
)
ENGINE = MergeTree
ORDER BY batch
TTL arrived_at + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Arrivals to be checked for other copies';

CREATE MATERIALIZED VIEW IF NOT EXISTS event_arrivals_to_checks TO event_checks AS
SELECT batch, sipHash64(portal_id, toUUID(event_arrivals.event_id)) AS id_hash
FROM event_arrivals
WHERE batch != 0;
