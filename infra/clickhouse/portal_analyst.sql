-- An analyst who sees the rows of one portal and no others, in views and in the tables beneath: on a server of your own, as an
-- administrator, after users.sql and `python -m pipeline migrate`. Here for portal 11:
--
--     sed s/11/42/g infra/clickhouse/portal_analyst.sql     the same for portal 42
--
--     sed s/timelines/timelines_g2/g ...                    besides: a further generation (`replay`), which the views come to read
--
-- The server's users_without_row_policies_can_read_rows has to be true, as it is by default: else the writer reads nothing any more.
-- What is not granted here is not for them: tables that no view reads, and failed records whose portal nobody knows.

CREATE USER IF NOT EXISTS analyst_11 IDENTIFIED WITH sha256_password BY 'PASSWORD-OF-ANALYST_11' SETTINGS readonly = 2;

CREATE ROW POLICY IF NOT EXISTS of_portal_11 ON timelines.event_rows USING portal_id = 11 TO analyst_11;
CREATE ROW POLICY IF NOT EXISTS of_portal_11 ON timelines.event_copies USING portal_id = 11 TO analyst_11;
CREATE ROW POLICY IF NOT EXISTS of_portal_11 ON timelines.session_rows USING portal_id = 11 TO analyst_11;
CREATE ROW POLICY IF NOT EXISTS of_portal_11 ON timelines.contact_rows USING portal_id = 11 TO analyst_11;
CREATE ROW POLICY IF NOT EXISTS of_portal_11 ON timelines.link_rows USING portal_id = 11 TO analyst_11;
CREATE ROW POLICY IF NOT EXISTS of_portal_11 ON timelines.evidence_owner_rows USING portal_id = 11 TO analyst_11;
CREATE ROW POLICY IF NOT EXISTS of_portal_11 ON timelines.retracted_rows USING portal_id = 11 TO analyst_11;
CREATE ROW POLICY IF NOT EXISTS of_portal_11 ON timelines.contact_cookies USING portal_id = 11 TO analyst_11;
CREATE ROW POLICY IF NOT EXISTS of_portal_11 ON timelines.contact_evidence USING portal_id = 11 TO analyst_11;
CREATE ROW POLICY IF NOT EXISTS of_portal_11 ON timelines.contact_addresses USING portal_id = 11 TO analyst_11;
CREATE ROW POLICY IF NOT EXISTS of_portal_11 ON timelines.failed_rows USING portal_id = 11 TO analyst_11;

GRANT SELECT ON timelines.event_rows TO analyst_11;
GRANT SELECT ON timelines.event_copies TO analyst_11;
GRANT SELECT ON timelines.session_rows TO analyst_11;
GRANT SELECT ON timelines.contact_rows TO analyst_11;
GRANT SELECT ON timelines.link_rows TO analyst_11;
GRANT SELECT ON timelines.evidence_owner_rows TO analyst_11;
GRANT SELECT ON timelines.retracted_rows TO analyst_11;
GRANT SELECT ON timelines.contact_cookies TO analyst_11;
GRANT SELECT ON timelines.contact_evidence TO analyst_11;
GRANT SELECT ON timelines.contact_addresses TO analyst_11;
GRANT SELECT ON timelines.failed_rows TO analyst_11;
GRANT SELECT ON timelines.contacts TO analyst_11;
GRANT SELECT ON timelines.links TO analyst_11;
GRANT SELECT ON timelines.sessions TO analyst_11;
GRANT SELECT ON timelines.events TO analyst_11;
GRANT SELECT ON timelines.event_owners TO analyst_11;
GRANT SELECT ON timelines.timeline TO analyst_11;
GRANT SELECT ON timelines.retracted_events TO analyst_11;
GRANT SELECT ON timelines.failed_events TO analyst_11;
GRANT SELECT ON timelines.owned_events_of TO analyst_11;
GRANT SELECT ON timelines.timeline_of TO analyst_11;
GRANT SELECT ON timelines.generation_switches TO analyst_11;
