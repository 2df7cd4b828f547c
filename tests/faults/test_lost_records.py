"""What Kafka loses for good (docs/decisions/0011): retention passes before anybody has read, a broker comes back without a log's end.

Each has a system of its own: where records are gone, no state can be computed again from them.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from pipeline.adapters import kafka
from pipeline.adapters.avro import Registry
from pipeline.app import ROLES
from pipeline.lag import consumed
from pipeline.settings import Worker as Workers
from tests.builders import form_submission, page_view
from tests.end_to_end.collisions import collisions
from tests.faults.on_neighbours import CHANGELOGS
from tests.faults.system import System, whole_system
from tests.faults.test_faults import SEED

LINES = 600
_TO_THE_END = -1


@pytest.fixture
def system() -> Iterator[System]:
    print(f"SEED={SEED}")
    with whole_system(SEED, per_kind=1) as whole:
        with whole.publishing(lines(0)):
            whole.all_at_work()
        whole.settle()
        yield whole


def lines(number: int) -> list[bytes]:
    """For each number others, of the same few cookies."""
    drawn = collisions(2 * LINES, SEED)
    random.Random(SEED).shuffle(drawn)
    return drawn[number * LINES :][:LINES]


@pytest.mark.timeout(600)
def test_records_that_are_deleted_before_anybody_has_read_them_are_missed(system: System) -> None:
    """Every part that was to read them says which they are and ends, as soon as there is anything behind them, again and again. With
    leave to lose them, nothing else is lost.
    """
    topics = {"page-views": page_view(1), "form-submissions": form_submission(2)}
    stopped = system.stop(ROLES)
    for topic, event in topics.items():
        system.produce(topic, b"k", [Registry(system.settings).encode_event(event)] * 3)
        delete_all(system, topic)
    for _ in range(2):
        system.again(stopped)
        system.publish_until(lambda: not any(worker.is_alive() for worker in system.workers))
        for worker in list(system.workers):
            assert worker.wait(0) == 1, worker.kind
            system.end(worker)
    said = system.log.read_text()
    for part in ROLES:
        assert [topic for topic in topics if topic in consumed(part)], "the part reads one of them"
        assert f"3 records were deleted before {part} had read them: offsets " in said
    assert "Traceback" not in said

    system.settings = system.settings.model_copy(update={"worker": Workers(deleted_records="skip")})
    system.again(stopped)
    with system.publishing(lines(1)):
        system.all_at_work()
    system.check()
    assert "records were deleted before they were read: skipped" in system.log.read_text()


def delete_all(system: System, topic: str) -> None:
    """All that the topic has, as retention does."""
    admin = kafka.admin(system.settings)
    name = kafka.topic_name(system.settings, topic)
    places = [TopicPartition(name, number, _TO_THE_END) for number in range(len(kafka.reach(system.settings).topics[name].partitions))]
    for deleted in admin.delete_records(places).values():
        deleted.result(timeout=30)


@pytest.mark.timeout(600)
def test_changelogs_that_lose_their_ends_are_computed_again(system: System) -> None:
    """The broker comes back after a crash with half of what was written to them: the parts know more than their state, and read again."""
    stopped = system.stop(tuple(CHANGELOGS))
    with system.stopped_server("kafka"):
        cut = [log for changelog in CHANGELOGS.values() for log in halved(system, changelog)]
    assert len(cut) > len(CHANGELOGS), "both have several partitions with something in them"
    system.again(stopped)
    with system.publishing(lines(1)):
        system.all_at_work()
    system.check()
    said = system.log.read_text()
    for part in CHANGELOGS:
        assert any("reading its sources again" in line and f"app={part}" in line for line in said.splitlines()), part


def halved(system: System, changelog: str) -> list[Path]:
    """The logs of its partitions on the broker's disk, each cut somewhere in its last half."""
    topic = kafka.topic_name(system.settings, changelog)
    partitions = sorted(system.servers_directory.glob(f"kafka/data/{topic}-*"))
    logs = [log for partition in partitions if (log := max(partition.glob("*.log"))).stat().st_size]
    for log in logs:
        size = log.stat().st_size
        with log.open("r+b") as file:
            file.truncate(system.rng.randrange(size // 2, size))
    return logs
