"""A pair of servers of its own: the tests stop and kill it, and the next one starts it again on the same data."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from infra import servers as infra_servers
from infra.processes import Identity, identity
from infra.servers import Servers, start, stop
from pipeline.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from infra.servers import embedded
with embedded(Path(sys.argv[1])) as servers:
    print(*servers.pids.values(), flush=True)
    time.sleep(120)
"""
LOOPBACK_ADDRESSES = {"0100007F", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, and the same in IPv6, as /proc/net writes them."""


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="servers-") as scratch:
        yield Path(scratch) / "data"
        stop(Path(scratch) / "data")


@pytest.fixture
def pair(data_dir: Path) -> Servers:
    """Both servers, running."""
    return start(data_dir)


DATABASE = "here"
"""Not `default`: in the engine's local mode that one reaches files, which nobody may."""


def writer(servers: Servers, database: str = DATABASE) -> Client:
    at = servers.clickhouse
    return Client(at.host, port=at.port, user=at.user, password=at.password, database=database)


def analyst(servers: Servers) -> Client:
    at = servers.clickhouse
    return Client(at.host, port=at.port, user=at.analyst_user, password=at.analyst_password, database=DATABASE)


def write_something(servers: Servers) -> None:
    """A table `kept` with one row, and a topic `kept` whose first record is "seven"."""
    writer(servers, "").execute(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
    writer(servers).execute(
        "CREATE OR REPLACE TABLE kept (number Int32) ENGINE = ReplacingMergeTree ORDER BY number AS SELECT 7 COMMENT 'a table'"
    )
    admin = AdminClient({"bootstrap.servers": servers.kafka.bootstrap_servers})
    if "kept" not in admin.list_topics(timeout=10).topics:
        admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(timeout=10)
    producer = Producer({"bootstrap.servers": servers.kafka.bootstrap_servers})
    producer.produce("kept", b"seven")
    assert producer.flush(10) == 0


def read_it(servers: Servers) -> tuple[list[tuple[int]], bytes | None]:
    consumer = Consumer({"bootstrap.servers": servers.kafka.bootstrap_servers, "group.id": "reader"})
    consumer.assign([TopicPartition("kept", 0, 0)])
    message = consumer.poll(10)
    consumer.close()
    assert message is not None
    return writer(servers).execute("SELECT number FROM kept FINAL"), message.value()


def identities(servers: Servers) -> list[Identity]:
    return [identity(pid) for pid in servers.pids.values()]


def has_ended(processes: list[Identity]) -> bool:
    deadline = time.monotonic() + 10
    while any(process.is_running() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(process.is_running() for process in processes)


def test_starting_twice_uses_those_that_run(pair: Servers, data_dir: Path) -> None:
    assert start(data_dir) == pair


def test_a_block_leaves_servers_that_ran_before(pair: Servers, data_dir: Path) -> None:
    with infra_servers.embedded(data_dir) as servers:
        assert servers == pair
    assert infra_servers.main(["status", "--data-dir", str(data_dir)]) == 0


def test_servers_json_says_where(pair: Servers, data_dir: Path) -> None:
    said = json.loads((data_dir / "servers.json").read_text())
    assert said["kafka"]["bootstrap_servers"] == pair.kafka.bootstrap_servers
    assert Client(**{key: said["clickhouse"][key] for key in ("host", "port", "user", "password")}).execute("SELECT 1") == [(1,)]


@pytest.mark.parametrize("name", ["servers.json", "passwords.json", "clickhouse/home/users.xml"])
def test_secrets_are_for_their_owner_only(pair: Servers, data_dir: Path, name: str) -> None:
    assert stat.S_IMODE((data_dir / name).stat().st_mode) == 0o600


def test_they_listen_on_loopback_only(pair: Servers, data_dir: Path) -> None:
    ports = {f"{port:04X}" for port in json.loads((data_dir / "ports.json").read_text()).values()}
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    listening = [row[1].split(":") for row in rows if row[3] == "0A"]
    assert {port for _, port in listening} >= ports
    assert {address for address, port in listening if port in ports} <= LOOPBACK_ADDRESSES


def test_topics_do_not_appear_by_themselves(pair: Servers) -> None:
    admin = AdminClient({"bootstrap.servers": pair.kafka.bootstrap_servers})
    admin.list_topics("misspelt", timeout=10)
    assert "misspelt" not in admin.list_topics(timeout=10).topics


@pytest.mark.parametrize(
    ("setting", "value"), [("async_insert", "0"), ("readonly", "0")], ids=["inserts have arrived when they return", "the writer may write"]
)
def test_profile_of_the_writer(pair: Servers, setting: str, value: str) -> None:
    assert writer(pair, "").execute(f"SELECT value FROM system.settings WHERE name = '{setting}'") == [(value,)]


@pytest.mark.parametrize("user", ["default", "writer", "analyst"])
def test_nobody_comes_in_without_a_password(pair: Servers, user: str) -> None:
    with pytest.raises(ServerException):
        Client(pair.clickhouse.host, port=pair.clickhouse.port, user=user).execute("SELECT 1")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT number FROM kept FINAL",
        "SELECT number FROM kept FINAL SETTINGS max_threads = 1, join_use_nulls = 1",
        "SELECT a.number FROM kept AS a ASOF JOIN kept AS b ON a.number = b.number AND a.number >= b.number",
        "SELECT number FROM (SELECT * FROM kept) WHERE number IN (SELECT number FROM kept)",
    ],
)
def test_the_analyst_reads(pair: Servers, query: str) -> None:
    write_something(pair)
    assert analyst(pair).execute(query) == [(7,)]


def test_the_analyst_sees_comments(pair: Servers) -> None:
    write_something(pair)
    assert analyst(pair).execute("SELECT comment FROM system.tables WHERE name = 'kept'") == [("a table",)]


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO kept SELECT 8",
        "CREATE TABLE mine (number Int32) ENGINE = Memory",
        "CREATE TEMPORARY TABLE mine (number Int32)",
        "CREATE VIEW mine AS SELECT 1",
        "ALTER TABLE kept DELETE WHERE 1",
        "DELETE FROM kept WHERE 1",
        "TRUNCATE TABLE kept",
        "OPTIMIZE TABLE kept FINAL",
        "DROP TABLE kept",
        "CREATE DATABASE mine",
        "SYSTEM STOP LISTEN TCP",
        "SET readonly = 0",
        "GRANT INSERT ON *.* TO analyst",
        "SELECT * FROM file('/etc/passwd', 'LineAsString', 'line String')",
        "INSERT INTO FUNCTION file('mine.csv', 'CSV', 'number Int32') SELECT 1",
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'number Int32')",
    ],
)
def test_the_analyst_does_nothing_else(pair: Servers, query: str) -> None:
    write_something(pair)
    with pytest.raises(ServerException, match=re.compile("not enough privileges|readonly", re.IGNORECASE)):
        analyst(pair).execute(query)
    assert writer(pair).execute("SELECT number FROM kept FINAL") == [(7,)]


def test_a_second_pair_on_the_same_data_is_refused(pair: Servers, data_dir: Path) -> None:
    """Even one that knows nothing of the first: the servers lock their data. The message says so, and the first pair goes on."""
    hidden = {name: (data_dir / name).read_text() for name in ("processes.json", "ports.json")}
    for name in hidden:
        (data_dir / name).unlink()
    try:
        with pytest.raises(UserError, match=f"Another server runs on the same data, {data_dir}"):
            start(data_dir)
    finally:
        for name, text in hidden.items():
            (data_dir / name).write_text(text)
    assert start(data_dir).pids == pair.pids


def test_data_ports_and_passwords_survive_kill_9(pair: Servers, data_dir: Path) -> None:
    write_something(pair)
    before = identities(pair)
    for process in before:
        os.kill(process.pid, signal.SIGKILL)
    assert has_ended(before)
    assert (data_dir / "servers.json").exists(), "left behind, and not to be believed"
    assert infra_servers.main(["status", "--data-dir", str(data_dir)]) == 1
    again = start(data_dir)
    assert read_it(again) == ([(7,)], b"seven")
    assert (again.kafka, again.clickhouse) == (pair.kafka, pair.clickhouse)
    assert not set(again.pids.values()) & set(pair.pids.values())


def test_down_ends_them_and_keeps_the_data(pair: Servers, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_something(pair)
    before = identities(pair)
    assert infra_servers.main(["down", "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr().out == "stopped: clickhouse, kafka\n"
    assert not any(process.is_running() for process in before)
    assert not (data_dir / "servers.json").exists()
    assert stop(data_dir) == []
    assert read_it(start(data_dir)) == ([(7,)], b"seven")


def test_only_the_one_that_is_missing_is_started(pair: Servers, data_dir: Path) -> None:
    killed = identity(pair.pids["clickhouse"])
    os.kill(killed.pid, signal.SIGKILL)
    assert has_ended([killed])
    again = start(data_dir)
    assert again.pids["kafka"] == pair.pids["kafka"]
    assert again.pids["clickhouse"] != killed.pid


def test_a_port_in_use_is_named_with_its_user_and_what_to_change(pair: Servers, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop(data_dir)
    with socket.create_server((pair.clickhouse.host, pair.clickhouse.port)):
        assert infra_servers.main(["up", "--data-dir", str(data_dir)]) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"error: port {pair.clickhouse.port} (clickhouse) is in use by process {os.getpid()} (")
    assert str(data_dir / "ports.json") in complaint
    assert infra_servers.main(["status", "--data-dir", str(data_dir)]) == 1


def test_they_end_with_a_process_that_is_killed(data_dir: Path) -> None:
    stop(data_dir)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(data_dir)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        running = [identity(int(pid)) for pid in holder.stdout.readline().split()]
        assert len(running) == 2
        assert all(process.is_running() for process in running)
        holder.kill()
    assert has_ended(running)


def test_a_data_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"{tmp_path}/file cannot be used"):
        start(tmp_path / "file")


def test_a_damaged_file_is_named(data_dir: Path) -> None:
    stop(data_dir)
    ports = (data_dir / "ports.json").read_text()
    (data_dir / "ports.json").write_text("{")
    with pytest.raises(UserError, match=r"ports\.json is not JSON"):
        start(data_dir)
    (data_dir / "ports.json").write_text(ports)
