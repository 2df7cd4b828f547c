"""Embedded ClickHouse: the engine of chdb-core in a process of its own, listening on loopback, data on disk.

The engine's local mode takes its configuration from `$HOME/.clickhouse-local/config.xml`, and a SQL statement makes it
listen. Its own session, and dictionaries on its own tables, are those of the user `default`, which therefore has to
exist without a password. It may only read, and open one session: the one that the process holds as long as it runs, so
nobody else comes in under that name.
"""

import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from clickhouse_driver import Client
from clickhouse_driver.errors import Error

from infra.ports import LOOPBACK, is_answering

WRITER = "writer"
ANALYST = "analyst"
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
    </{writer}>
    <{analyst}>
      <password_sha256_hex>{analyst_sha256}</password_sha256_hex>
      <networks><ip>{host}</ip></networks>
      <profile>analyst</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SELECT, SHOW, dictGet ON *.*</query>
      </grants>
    </{analyst}>
    <default>
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
            analyst=ANALYST,
            writer_sha256=sha256(passwords[WRITER].encode()).hexdigest(),
            analyst_sha256=sha256(passwords[ANALYST].encode()).hexdigest(),
        )
    )
    return [sys.executable, "-P", str(ENGINE), str(directory / "data")], {"HOME": str(home)}


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
