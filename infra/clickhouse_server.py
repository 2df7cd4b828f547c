"""Embedded ClickHouse: the engine of chdb-core in a process of its own, listening on loopback, data on disk.

The engine's local mode takes its configuration from `$HOME/.clickhouse-local/config.xml`, and a SQL statement makes it
listen. Its own session, and dictionaries on its own tables, are those of the user `default`, which therefore has to
exist without a password. It may only read, and open one session: the one that the process holds as long as it runs, so
nobody else comes in under that name.

Users: the writer; the analyst, who reads everything but what the server says about other people's queries; and for a portal an analyst of
its own, who reads that portal's rows and no other, in views and in the tables beneath them. On a server of your own `users.sql` and
`portal_analyst.sql` (infra/clickhouse) make the same.
"""

import sys
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from clickhouse_driver import Client
from clickhouse_driver.errors import Error

from infra.ports import LOOPBACK, is_answering

WRITER = "writer"
ANALYST = "analyst"
PORTAL_ANALYST = "analyst_{portal}"
DATABASE = "timelines"
"""The portals' analysts read this one, that of the default settings ..."""
DATABASES = (DATABASE, *(f"{DATABASE}_g{number}" for number in range(1, 10)))
"""... and those of further generations, which its views may come to read."""
POINTER = f"{DATABASE}.generation_switches"
"""Says which generation that is; there is nothing of any portal in it."""
TABLES = (
    "event_rows",
    "event_copies",
    "session_rows",
    "contact_rows",
    "link_rows",
    "evidence_owner_rows",
    "retracted_rows",
    "contact_cookies",
    "contact_evidence",
    "contact_addresses",
    "failed_rows",
)
"""All that views read; each row has its portal, and those of failed_rows that have none are nobody's. Other tables are not for analysts of
a portal. A test compares with the migrations."""
VIEWS = (
    "contacts", "links", "sessions", "events", "event_owners", "timeline", "retracted_events", "failed_events",
    "owned_events_of", "timeline_of",
)  # fmt: skip
ENGINE = Path(__file__).with_name("clickhouse_engine.py")

CONFIGURATION = """\
<!-- Written at each start by infra/clickhouse_server.py. -->
<clickhouse>
  <listen_host>{host}</listen_host>
  <tcp_port>{port}</tcp_port>
  <http_port>{http_port}</http_port>
  <users_config>{users}</users_config>
  <log-level>information</log-level>
  <logger>
    <level>information</level>
    <log>{log}</log>
    <size>10M</size>
    <count>3</count>
  </logger>
  <!-- A share of a small machine. -->
  <max_server_memory_usage>4000000000</max_server_memory_usage>
  <mark_cache_size>134217728</mark_cache_size>
  <primary_index_cache_size>134217728</primary_index_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <background_pool_size>2</background_pool_size>
  <background_common_pool_size>2</background_common_pool_size>
  <background_schedule_pool_size>4</background_schedule_pool_size>
  <background_move_pool_size>1</background_move_pool_size>
  <background_fetches_pool_size>1</background_fetches_pool_size>
  <!-- What others ask, and what tables hold, is not for everybody who may log in. -->
  <access_control_improvements>
    <select_from_system_db_requires_grant>true</select_from_system_db_requires_grant>
    <select_from_information_schema_requires_grant>true</select_from_information_schema_requires_grant>
  </access_control_improvements>
</clickhouse>
"""

USERS = """\
<!-- Written at each start by infra/clickhouse_server.py; the passwords are in servers.json. -->
<clickhouse>
  <profiles>
    <default>
      <!-- On by default; our inserts are large blocks whose arrival must be certain. -->
      <async_insert>0</async_insert>
    </default>
    <!-- 2: may also change settings of a query, as drivers and dashboards do, though not this one. -->
    <analyst>
      <readonly>2</readonly>
      <max_memory_usage>2000000000</max_memory_usage>
    </analyst>
    <engine>
      <max_sessions_for_user>1</max_sessions_for_user>
    </engine>
  </profiles>
  <quotas><default/></quotas>
  <users>
    <{writer}>
      <password_sha256_hex>{writer_sha256}</password_sha256_hex>
      <networks><ip>{host}</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <grants>
{writer_grants}
      </grants>
    </{writer}>
{analysts}    <default>
      <password></password>
      <networks><ip>{host}</ip></networks>
      <profile>engine</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SYSTEM LISTEN ON *.*</query>
        <query>GRANT SELECT, dictGet ON *.*</query>
      </grants>
    </default>
  </users>
</clickhouse>
"""


_ANALYST = """\
    <{user}>
      <password_sha256_hex>{sha256}</password_sha256_hex>
      <networks><ip>{host}</ip></networks>
      <profile>analyst</profile>
      <quota>default</quota>
      <grants>
{grants}
      </grants>
{rows}    </{user}>
"""
_WRITER = (
    "GRANT CREATE DATABASE, DROP DATABASE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, ALTER, SELECT, INSERT ON *.*",
    "GRANT TABLE ENGINE ON *",
)
"""What `users.sql` grants, in all databases: without these a user of the configuration may do everything, read files and call urls."""
_EVERYTHING = ("GRANT SELECT, SHOW, dictGet ON *.*", "REVOKE SELECT ON system.*", "REVOKE SELECT ON information_schema.*")


def prepare(directory: Path, log: Path, port: int, http_port: int, passwords: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Write the configuration; return the command that runs the server and the environment that it needs."""
    home = directory / "home"
    configuration = home / ".clickhouse-local" / "config.xml"
    users = home / "users.xml"
    configuration.parent.mkdir(parents=True, exist_ok=True)
    configuration.write_text(CONFIGURATION.format(host=LOOPBACK, port=port, http_port=http_port, users=users, log=log))
    users.touch(mode=0o600)
    users.write_text(
        USERS.format(
            host=LOOPBACK,
            writer=WRITER,
            writer_sha256=_digest(passwords[WRITER]),
            writer_grants=_grants(_WRITER),
            analysts="".join(_analyst(user, password) for user, password in passwords.items() if user != WRITER),
        )
    )
    return [sys.executable, "-P", str(ENGINE), str(directory / "data")], {"HOME": str(home)}


def portal_of(user: str) -> str | None:
    """The portal of `analyst_11`; None for other users."""
    portal = user.removeprefix(PORTAL_ANALYST.format(portal=""))
    return portal if portal.isdigit() else None


def _analyst(user: str, password: str) -> str:
    portal = portal_of(user)
    readable = (*(f"{database}.{name}" for database in DATABASES for name in (*TABLES, *VIEWS)), POINTER)
    grants = _EVERYTHING if portal is None else [f"GRANT SELECT ON {name}" for name in readable]
    return _ANALYST.format(
        user=user,
        sha256=_digest(password),
        host=LOOPBACK,
        grants=_grants(grants),
        rows="" if portal is None else _rows(portal),
    )


def _grants(statements: Iterable[str]) -> str:
    return "\n".join(f"        <query>{statement}</query>" for statement in statements)


def _rows(portal: str) -> str:
    tables = "".join(f"          <{table}><filter>portal_id = {portal}</filter></{table}>\n" for table in TABLES)
    databases = "".join(f"        <{database}>\n{tables}        </{database}>\n" for database in DATABASES)
    return f"      <databases>\n{databases}      </databases>\n"


def _digest(password: str) -> str:
    return sha256(password.encode()).hexdigest()


def answers(port: int, password: str) -> bool:
    """Whether the writer can ask it something."""
    if not is_answering(port):
        return False
    client = Client(LOOPBACK, port=port, user=WRITER, password=password, connect_timeout=2, send_receive_timeout=5)
    try:
        return bool(client.execute("SELECT 1") == [(1,)])
    except (Error, OSError, EOFError):
        return False
    finally:
        client.disconnect()
