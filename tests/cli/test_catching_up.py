"""Lag and `status --wait`, on the real broker: the parts are played by consumers that read and commit."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer, TopicPartition

from pipeline import catching_up
from pipeline.adapters import kafka
from pipeline.adapters.contracts import load_topics
from pipeline.adapters.topics import create_topics
from pipeline.app import ROLES
from pipeline.errors import UserError
from pipeline.lag import Readings, consumed
from pipeline.settings import Settings
from pipeline.status import PartStatus, status
from tests.adapters.test_topics import create_by_hand


@pytest.fixture
def topics(settings: Settings) -> Settings:
    """Settings with all topics made, under a prefix of their own."""
    create_topics(settings)
    return settings


def produce(settings: Settings, topic: str, count: int, partition: int = 0, seconds_ago: float = 0) -> None:
    """Records that say that they were published so long ago."""
    producer = kafka.producer(settings)
    _produce(producer, settings, topic, count, partition, int((time.time() - seconds_ago) * 1000))
    producer.flush()


def produce_in_transaction(settings: Settings, topic: str, count: int, *, commit: bool = True) -> None:
    producer = kafka.producer(settings, **{"transactional.id": f"{settings.kafka.topic_prefix}test"})
    producer.init_transactions(10)
    producer.begin_transaction()
    _produce(producer, settings, topic, count, 0, int(time.time() * 1000))
    producer.flush()
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()


def _produce(producer: Producer, settings: Settings, topic: str, count: int, partition: int, timestamp: int) -> None:
    for number in range(count):
        producer.produce(kafka.topic_name(settings, topic), value=b"value", key=str(number), partition=partition, timestamp=timestamp)


def commit(settings: Settings, part: str, topic: str, offset: int, partition: int = 0, metadata: str = "") -> None:
    """As `part` would: the next record that it wants to read is at `offset`."""
    consumer = kafka.consumer(settings, group=part)
    consumer.commit(offsets=[TopicPartition(kafka.topic_name(settings, topic), partition, offset, metadata)], asynchronous=False)
    consumer.close()


def commit_all(settings: Settings, part: str) -> None:
    """The part has read everything."""
    with Readings(settings, [part]) as readings:
        for (topic, partition), end in readings.ends(consumed(part)).items():
            if end:
                commit(settings, part, topic, end, partition)


def part_of(settings: Settings, part: str) -> PartStatus:
    return next(found for found in status(settings).parts if found.part == part)


def test_empty_topics_are_no_lag(topics: Settings) -> None:
    """Nothing published, nothing read: nobody is behind."""
    assert [part.lag_records for part in status(topics).parts] == [0, 0, 0]
    assert catching_up.wait(topics, 0) is None


def test_topics_that_do_not_exist_yet_are_no_absent_broker(settings: Settings) -> None:
    """After `make up`, and before anything was run."""
    with pytest.raises(UserError, match=r"there is no topic .*topics create"):
        status(settings)


def test_a_topic_with_too_few_partitions_is_no_absent_broker(settings: Settings) -> None:
    create_by_hand(settings, "page-views", partitions=3)
    with pytest.raises(UserError, match="page-views"):
        create_topics(settings)
    with pytest.raises(UserError, match=r"topic .*page-views has partitions 3, expected 6"):
        status(settings)


def test_records_that_nobody_read(topics: Settings) -> None:
    """A part that never committed is behind by all there is, and for as long as the first record has been waiting."""
    produce(topics, "page-views", 5, seconds_ago=100)
    record = part_of(topics, "record")
    assert record.lag_records == 5
    assert 100 <= record.lag_seconds < 200
    assert part_of(topics, "identify").lag_records == 0


def test_lag_counts_from_the_commit(topics: Settings) -> None:
    """A part is behind by what follows its committed offset."""
    produce(topics, "page-views", 5)
    commit(topics, "record", "page-views", 3)
    assert part_of(topics, "record").lag_records == 2
    assert part_of(topics, "sessionize").lag_records == 5


def test_lag_in_seconds_is_that_of_the_first_waiting_record(topics: Settings) -> None:
    """What was read already does not make the lag older."""
    produce(topics, "page-views", 1, seconds_ago=1000)
    produce(topics, "page-views", 1, seconds_ago=100)
    commit(topics, "record", "page-views", 1)
    assert 100 <= part_of(topics, "record").lag_seconds < 200


@pytest.mark.parametrize("committed", [True, False])
def test_control_records_are_no_lag(topics: Settings, committed: bool) -> None:
    """A transaction ends with a record that no reader sees, and an aborted one has nothing else: who read the rest has caught up."""
    produce_in_transaction(topics, "sessions", 3, commit=committed)
    commit(topics, "record", "sessions", 3 if committed else 0)
    assert part_of(topics, "record").lag_records == 0


def test_last_commit(topics: Settings) -> None:
    """A part says when it committed in the commit itself."""
    produce(topics, "page-views", 2)
    assert part_of(topics, "record").last_commit is None
    commit(topics, "record", "page-views", 1, metadata="1700000000000")
    assert part_of(topics, "record").last_commit == 1_700_000_000_000


def test_wait_names_who_is_behind(topics: Settings) -> None:
    """After the time, the message says which part is behind in what, and by how much."""
    produce(topics, "page-views", 4)
    commit(topics, "sessionize", "page-views", 4)
    assert catching_up.wait(topics, 0.2) == "record is 4 records behind in page-views"


def test_wait_follows_the_stages(topics: Settings) -> None:
    """Who has read the raw topics has not caught up while evidence waits for its fold, nor while what follows is unrecorded."""
    produce(topics, "form-submissions", 1)
    for part in ROLES:
        commit_all(topics, part)
    assert catching_up.wait(topics, 0) is None
    produce(topics, "identity-evidence", 1)
    assert catching_up.wait(topics, 0) == "identify is 1 records behind in identity-evidence"
    commit_all(topics, "identify")
    produce_in_transaction(topics, "contacts", 1)
    waiting = catching_up.wait(topics, 0)
    assert waiting is not None
    assert waiting.startswith("record is ")
    assert waiting.endswith("behind in contacts")
    commit_all(topics, "record")
    assert catching_up.wait(topics, 0) is None


def test_wait_does_not_wait_for_what_is_published_later(topics: Settings) -> None:
    """Records that arrive during the wait are not waited for."""
    produce(topics, "page-views", 1)

    def meanwhile() -> None:
        produce(topics, "page-views", 1)
        for part in ("sessionize", "record"):
            commit(topics, part, "page-views", 1)

    assert catching_up.wait(topics, 20, meanwhile) is None


def test_stages_contain_every_topic_that_is_read() -> None:
    """A topic that a part reads and no stage waits for would make `--wait` lie."""
    read = {topic for part in ROLES for topic in consumed(part)}
    assert read == {topic for stage in catching_up.STAGES for topic in stage}
    assert read <= set(load_topics())


class Background:
    """Things that happen while a test waits."""

    def __init__(self) -> None:
        self.timers: list[threading.Timer] = []

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        self.timers.append(threading.Timer(seconds, act))
        self.timers[-1].start()


@pytest.fixture
def background() -> Iterator[Background]:
    """Waits for what was begun."""
    running = Background()
    yield running
    for timer in running.timers:
        timer.join()
