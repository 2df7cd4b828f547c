"""Faults of Kafka, ClickHouse, the schema registry and the disk."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.adapters import clickhouse, kafka, topics
from pipeline.app import ROLES
from tests.faults.system import System, Worker, until

Fault = Callable[[System], None]

AWAY_S = {"clickhouse": 30.0, "kafka": 60.0 if int(os.environ.get("ROUNDS", "1")) > 1 else 15.0}


def killed(name: str, away_s: float) -> Fault:
    def fault(system: System) -> None:
        system.pause(0.3, 1.5)
        system.kill_server(name, away_s)

    return fault


def answers_are_dropped(system: System) -> None:
    """ClickHouse has inserted, and nobody hears of it."""
    system.pause(0.2, 1.0)
    system.gate.swallows_answers = True
    time.sleep(4)
    system.gate.swallows_answers = False


def inserts_are_cut(system: System) -> None:
    """In the middle, at other places each time."""
    for _ in range(6):
        system.gate.most_bytes = system.rng.randrange(2_000, 60_000)
        system.gate.cut()
        system.pause(0.3, 1.0)
    system.gate.most_bytes = None
    system.gate.cut()


def tables_set(*settings: str) -> Fault:
    """As long as the tables have these settings ClickHouse refuses inserts."""

    def fault(system: System) -> None:
        client = clickhouse.connect(system.settings)
        tables = [
            name
            for (name,) in client.execute("SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'")
        ]
        for table in tables:
            client.execute(f"ALTER TABLE {table} MODIFY SETTING {', '.join(settings)}")
        refused_for(system, 4)
        for table in tables:
            client.execute(f"ALTER TABLE {table} RESET SETTING {', '.join(setting.split('=')[0] for setting in settings)}")

    return fault


def refused_for(system: System, seconds: float) -> None:
    """Until `record` has said that it waits, and a little longer."""
    said = system.log.read_text().count("waiting for ClickHouse")
    system.publish_until(lambda: system.log.read_text().count("waiting for ClickHouse") > said)
    time.sleep(seconds)


def registry_is_down(system: System) -> None:
    """Records with an id that nobody has seen wait for it; none of them is poison because of that. A new worker waits, too."""
    system.registry.is_away = True
    value = b"\x00\x00\x00\x1b\x58" + system.rng.randbytes(20)
    system.produce("page-views", b"k", [value])
    system.poison.add(("page-views", value.hex().upper()))  # when the registry is there, it does not know the id
    for kind in ROLES:
        system.kill_one(kind)
    time.sleep(5)
    failed = "SELECT count() FROM failed_events WHERE hex(value) = %(value)s"
    assert clickhouse.connect(system.settings).execute(failed, {"value": value.hex().upper()}) == [(0,)]
    system.registry.is_away = False


def disk_is_full(system: System) -> None:
    """Where the parts write how they are: they go on."""
    with small_disk(system.directory / "parts") as disk:
        (disk / "filler").write_bytes(bytes(60_000))
        for kind in ROLES:
            system.kill_one(kind)
        system.settle()


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory], check=True, capture_output=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def can_mount(directory: Path) -> bool:
    try:
        with small_disk(directory):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def changelogs_are_deleted(system: System) -> None:
    """Both parts are down meanwhile, as the message says; their state is computed again."""
    workers = stop(system, ("sessionize", "identify"))
    make_anew(system, "sessionize-visitors-changelog", "identify-identities-changelog")
    again(system, workers)
    until(lambda: system.log.read_text().count("reading its sources again") > 0, 60)


def stop(system: System, kinds: Sequence[str]) -> list[Worker]:
    system.all_at_work()
    stopped = [worker for kind in kinds for worker in system.of(kind)]
    for worker in stopped:
        system.terminate(worker)
    return stopped


def again(system: System, workers: Sequence[Worker]) -> None:
    for worker in workers:
        system.start(worker.kind, worker.instance)


def make_anew(system: System, *names: str) -> None:
    """Topics are deleted, and made by `topics create`."""
    admin = kafka.admin(system.settings)
    for deleted in admin.delete_topics([kafka.topic_name(system.settings, name) for name in names]).values():
        deleted.result(timeout=30)
    until(lambda: not {*names} & kafka.reach(system.settings).topics.keys(), 30)
    topics.create_topics(system.settings)


DISK_IS_FULL = "the disk is full"
ON_SMALL_DISKS = {DISK_IS_FULL}

FAULTS: dict[str, Fault] = {
    "ClickHouse is killed": killed("clickhouse", 2),
    "ClickHouse is down": killed("clickhouse", AWAY_S["clickhouse"]),
    "ClickHouse's answers are dropped": answers_are_dropped,
    "inserts are cut": inserts_are_cut,
    "too many parts": tables_set("parts_to_throw_insert=1", "parts_to_delay_insert=1"),
    "tables are read-only": tables_set("table_readonly=1"),
    "Kafka is killed": killed("kafka", 2),
    "Kafka is down": killed("kafka", AWAY_S["kafka"]),
    "the registry is down": registry_is_down,
    DISK_IS_FULL: disk_is_full,
    "changelogs are deleted": changelogs_are_deleted,
}
