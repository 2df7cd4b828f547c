"""Faults of Kafka, ClickHouse, the schema registry and the disk."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from infra import clickhouse_server
from pipeline.adapters import clickhouse, kafka, topics
from pipeline.adapters.contracts import load_topics
from pipeline.app import ROLES
from pipeline.lag import consumed
from tests.faults.system import HEALED_S, System, Worker
from tests.waiting import until

Fault = Callable[[System], None]

CHANGELOGS = {"sessionize": "sessionize-visitors-changelog", "identify": "identify-identities-changelog"}
AWAY_S = {"clickhouse": 30.0, "kafka": 15.0 if "FAULTS_MINUTES" in os.environ else 60.0}


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
        system.all_at_work()
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


def user_limited(limits: str, reason: str) -> Fault:
    """ClickHouse starts anew with these limits for the pipeline's user, and once more without them."""

    def fault(system: System) -> None:
        system.all_at_work()
        usual = clickhouse_server.USERS
        limited = usual.replace("<profile>default</profile>", "<profile>limited</profile>")
        clickhouse_server.USERS = limited.replace("<engine>", f"<limited>{limits}</limited><engine>", 1)
        try:
            system.kill_server("clickhouse", 0)
            refused_for(system, 4, reason)
        finally:
            clickhouse_server.USERS = usual
        system.kill_server("clickhouse", 0)

    return fault


def refused_for(system: System, seconds: float, reason: str = "") -> None:
    """Until `record` has said that it waits (for this reason), and a little longer. One that has not begun says it in other words."""

    def waiting() -> int:
        return sum("waiting for ClickHouse" in line and reason in line for line in system.log.read_text().splitlines())

    said = waiting()
    system.publish_until(lambda: waiting() > said)
    time.sleep(seconds)


def clickhouse_disk_is_full(system: System) -> None:
    """No part of an insert fits; then there is room again."""
    system.all_at_work()
    with clickhouse_on_small_disk(system) as disk:
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        refused_for(system, 4, "space")
        filler.unlink()
        system.settle()


@contextmanager
def clickhouse_on_small_disk(system: System) -> Iterator[Path]:
    """Its data are there meanwhile, with a little room."""
    data = system.servers_directory / "clickhouse" / "data"
    aside = data.with_name("aside")
    with ExitStack() as mounted:
        with system.stopped_server("clickhouse"):
            data.rename(aside)
            used = sum(file.lstat().st_size for file in aside.rglob("*"))
            mounted.enter_context(small_disk(data, (used >> 9) + (64 << 10)))
            shutil.copytree(aside, data, symlinks=True, dirs_exist_ok=True)
        yield data
        with system.stopped_server("clickhouse"):
            shutil.rmtree(aside)
            shutil.copytree(data, aside, symlinks=True)
            mounted.close()
            data.rmdir()
            aside.rename(data)


def registry_is_down(system: System) -> None:
    """Records with an id that nobody has seen wait for it; none of them is poison because of that. A new worker waits, too."""
    system.registry.is_away = True
    value = b"\x00\x00\x00\x1b\x58" + system.rng.randbytes(20)
    system.produce("page-views", b"k", [value])
    system.poison["page-views", value.hex().upper()] = "unknown_schema"  # when the registry is there, it does not know the id
    for kind in ROLES:
        system.kill_one(kind)
    time.sleep(5)
    failed = "SELECT count() FROM failed_events WHERE hex(value) = %(value)s"
    assert clickhouse.connect(system.settings).execute(failed, {"value": value.hex().upper()}) == [(0,)]
    system.registry.is_away = False


def disk_is_full(system: System) -> None:
    """Where the parts write how they are: they go on."""

    def complaints() -> int:
        return system.log.read_text().count("cannot write how this part is")

    with small_disk(system.directory / "parts", 64) as disk:
        (disk / "filler").write_bytes(bytes(60_000))
        before = complaints()
        for kind in ROLES:
            system.kill_one(kind)
        system.publish_until(lambda: complaints() > before)
        system.settle()


@contextmanager
def small_disk(directory: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", directory], check=True, capture_output=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def can_mount(directory: Path) -> bool:
    try:
        with small_disk(directory, 64):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def changelogs_are_deleted(system: System) -> None:
    """Both parts are down meanwhile, as the message says; their state is computed again."""
    stopped = system.stop(tuple(CHANGELOGS))
    _compute_again(system, stopped)


def changelogs_are_damaged(system: System) -> None:
    """A byte of each is another on the broker's disk: whoever reads it ends, and says what to do. That is done."""
    stopped = system.stop(tuple(CHANGELOGS))
    damaged = {kind: damage(system, changelog) for kind, changelog in CHANGELOGS.items()}
    readers = [system.start(kind, "0") for kind in CHANGELOGS]
    system.publish_until(lambda: not any(reader.is_alive() for reader in readers))
    for reader in readers:
        assert reader.wait(0) == 1
        said = f"the state in {damaged[reader.kind]} is not what {reader.kind} has written"
        assert said in system.log.read_text()
        system.end(reader)
    _compute_again(system, stopped)


def damage(system: System, changelog: str) -> str:
    """Flips bits of the last byte of the first batch of a partition, which is returned."""
    topic = kafka.topic_name(system.settings, changelog)
    written = sorted(log for log in system.servers_directory.glob(f"kafka/data/{topic}-*/*.log") if log.stat().st_size)
    first = system.rng.choice([log for log in written if log == min(log.parent.glob("*.log"))])
    with first.open("r+b") as file:
        file.seek(8)  # the batch's offset; its length, without these two, follows
        last = 11 + int.from_bytes(file.read(4))
        file.seek(last)
        (byte,) = file.read(1)
        file.seek(last)
        file.write(bytes([byte ^ 0x55]))
    return f"{topic}[{first.parent.name.rpartition('-')[2]}]"


def _compute_again(system: System, stopped: Sequence[Worker]) -> None:
    said = system.log.read_text().count("reading its sources again")
    make_anew(system, *CHANGELOGS.values())
    system.again(stopped)
    until(lambda: system.log.read_text().count("reading its sources again") > said, seconds=HEALED_S)


def offsets_go_back(system: System) -> None:
    """To the beginning, for all parts: their states and tables are ahead of that, and everything comes a second time."""
    stopped = system.stop(ROLES)
    admin = kafka.admin(system.settings)
    for part in ROLES:
        begins = [
            TopicPartition(kafka.topic_name(system.settings, topic), n, 0)
            for topic in consumed(part)
            for n in range(load_topics()[topic].partitions)
        ]
        group = kafka.group_name(system.settings, part)
        admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, begins)])[group].result(timeout=30)
    system.again(stopped)


def make_anew(system: System, *names: str) -> None:
    """Topics are deleted, and made by `topics create`."""
    admin = kafka.admin(system.settings)
    for deleted in admin.delete_topics([kafka.topic_name(system.settings, name) for name in names]).values():
        deleted.result(timeout=30)
    until(lambda: not {*names} & kafka.reach(system.settings).topics.keys(), seconds=30)
    topics.create_topics(system.settings)


_CLICKHOUSE_DISK, _STATE_DISK = "ClickHouse's disk is full", "the disk is full"
ON_SMALL_DISKS = {_CLICKHOUSE_DISK, _STATE_DISK}

FAULTS: dict[str, dict[str, Fault]] = {
    "ClickHouse": {
        "ClickHouse is killed": killed("clickhouse", 2),
        "ClickHouse is down": killed("clickhouse", AWAY_S["clickhouse"]),
        "ClickHouse's answers are dropped": answers_are_dropped,
        "inserts are cut": inserts_are_cut,
        "too many parts": tables_set("parts_to_throw_insert=1", "parts_to_delay_insert=1"),
        "tables are read-only": tables_set("table_readonly=1"),
        "ClickHouse has no memory": user_limited("<max_memory_usage>4000000</max_memory_usage>", "memory"),
        "ClickHouse's user may only read": user_limited("<readonly>1</readonly>", "readonly"),
        _CLICKHOUSE_DISK: clickhouse_disk_is_full,
    },
    "Kafka": {"Kafka is killed": killed("kafka", 2), "Kafka is down": killed("kafka", AWAY_S["kafka"])},
    "registry": {"the registry is down": registry_is_down},
    "state lost": {"changelogs are deleted": changelogs_are_deleted, "changelogs are damaged": changelogs_are_damaged},
    "full disk": {_STATE_DISK: disk_is_full},
    "offsets": {"offsets go back": offsets_go_back},
}
