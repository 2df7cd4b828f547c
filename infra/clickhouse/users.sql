-- Users on a server of your own, once, as an administrator; the embedded server has its own. Replace both passwords, and the
-- name of the database if yours has another (timelines*: those of later generations, too). An analyst of one portal only: portal_analyst.sql.
--
-- Let nobody in without a password (users.xml has such a `default`), and set access_control_improvements to what the embedded
-- server has (infra/clickhouse_server.py), else everybody who may log in sees everybody's queries.

CREATE USER IF NOT EXISTS pipeline IDENTIFIED WITH sha256_password BY 'PASSWORD-OF-THE-WRITER';
GRANT CREATE DATABASE, DROP DATABASE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, ALTER, SELECT, INSERT ON timelines*.* TO pipeline;
GRANT TABLE ENGINE ON * TO pipeline;

CREATE USER IF NOT EXISTS analyst IDENTIFIED WITH sha256_password BY 'PASSWORD-OF-THE-ANALYST' SETTINGS readonly = 2;
GRANT SELECT, SHOW ON timelines*.* TO analyst;
