"""`record` when something dies, goes away or is lost: nothing is recorded twice, and nothing is passed over without a word."""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipeline import record
from pipeline.adapters import kafka, topics
from pipeline.adapters.avro import Registry, UnreadableError
from pipeline.adapters.deleted import DeletedError, MadeAnewError
from pipeline.errors import UserError
from pipeline.leaving import DRAIN_S
from pipeline.record import Recorder
from pipeline.replay import views
from pipeline.settings import Settings, Worker
from tests.adapters.recording import Gate, Record, ask, caught_up, publish, raw, recording, until_ended
from tests.builders import email_click, page_view, utk
from tests.deleting import delete_topic
from tests.faults.fail_points import LEAVING, MARK
from tests.faults.planted import work
from tests.processes import Forked
from tests.waiting import until


def test_a_crash_before_the_commit_changes_nothing(ready: Settings, registry: Registry) -> None:
    events = [page_view(1), page_view(1, title="T"), page_view(2, utk="b"), email_click(3, utk=None), email_click(3)]

    def crash(recorder: Recorder) -> None:
        def commit() -> None:
            raise RuntimeError("crashed")

        recorder._commit = commit  # type: ignore[method-assign]

    publish(ready, raw(registry, *events))
    with pytest.raises(RuntimeError, match="crashed"), recording(ready, crash) as recorder:  # noqa: PT012
        wait_for_events(recorder, len(events))
        time.sleep(1)
    first = ask(ready, "SELECT * FROM events ORDER BY ALL")
    with recording(ready):
        caught_up(ready)
    assert ask(ready, "SELECT * FROM events ORDER BY ALL") == first
    assert ask(ready, "SELECT count(), countIf(title = 'T'), countIf(utk IS NULL) FROM events") == [(3, 1, 0)]


def wait_for_events(recorder: Recorder, count: int) -> None:
    deadline = time.monotonic() + 30
    while recorder.health_file.health.events < count and time.monotonic() < deadline:
        time.sleep(0.05)


def test_while_clickhouse_is_away_nothing_is_lost_and_the_group_is_not_left(ready: Settings, registry: Registry) -> None:
    gate = Gate(ready.clickhouse.host, ready.clickhouse.port)
    gate.open()
    through = ready.model_copy(update={"clickhouse": ready.clickhouse.model_copy(update={"port": gate.port})})
    with recording(through) as recorder:
        publish(ready, raw(registry, page_view(1)))
        caught_up(ready)
        gate.shut()
        publish(ready, raw(registry, page_view(2), page_view(3, utk="b")))
        time.sleep(3)
        assert recorder._consumer.assignment()
        gate.open()
        caught_up(ready)
    assert ask(ready, "SELECT count() FROM events") == [(3,)]


def test_what_is_read_while_kafka_takes_its_time_for_a_dead_letter_is_recorded_too(ready: Settings, registry: Registry) -> None:
    """It is read to stay in the group, and was not there when the batch was inserted."""
    meanwhile: list[bool] = []

    def slow(recorder: Recorder) -> None:
        flush = recorder._producer.flush

        def read_on() -> bool:
            recorder._pause(0)
            return 2 in recorder._pending.ends().values()

        def slowly() -> None:
            if not meanwhile:
                publish(ready, raw(registry, page_view(1)))
                until(read_on)
                meanwhile.append(True)
            flush()

        recorder._producer.flush = slowly  # type: ignore[method-assign]

    publish(ready, [("page-views", utk("a").encode(), b"no avro")])
    with recording(ready, slow):
        until(lambda: meanwhile)
        caught_up(ready)
    assert ask(ready, "SELECT (SELECT count() FROM events), (SELECT count() FROM failed_events)") == [(1, 1)]


def test_clickhouse_may_go_away_while_record_starts(ready: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks between two statements is waited for like one that cannot be made; it ended `record` with "Aborted!"."""
    migrate, broken = views.migrate, iter([EOFError("Unexpected EOF while reading bytes"), ConnectionResetError(104, "reset by peer")])

    def disturbed(settings: Settings) -> list[str]:
        if (error := next(broken, None)) is not None:
            raise error
        return migrate(settings)

    monkeypatch.setattr(views, "migrate", disturbed)
    publish(ready, raw(registry, page_view(1)))
    with recording(ready):
        until(lambda: ask(ready, "SELECT count() FROM events") == [(1,)])


def test_a_stop_while_clickhouse_is_away_is_quick_and_commits_nothing(ready: Settings, registry: Registry) -> None:
    gate = Gate(ready.clickhouse.host, ready.clickhouse.port)
    gate.open()
    through = ready.model_copy(update={"clickhouse": ready.clickhouse.model_copy(update={"port": gate.port})})
    with recording(through):
        publish(ready, raw(registry, page_view(1)))
        caught_up(ready)
        gate.shut()
        publish(ready, raw(registry, page_view(2)))
        time.sleep(1)
        stopping_at = time.monotonic()
    assert time.monotonic() - stopping_at < 10
    with recording(ready):
        caught_up(ready)
    assert ask(ready, "SELECT count() FROM events") == [(2,)]


def test_two_recorders_share_the_work_and_one_takes_over(ready: Settings, registry: Registry) -> None:
    events = [page_view(number, utk=f"cookie-{number}") for number in range(2_000)]
    records = raw(registry, *events)
    with recording(ready):
        publish(ready, records[:1_000])
        with recording(ready) as second:
            deadline = time.monotonic() + 30
            while not second._consumer.assignment() and time.monotonic() < deadline:
                time.sleep(0.1)
            publish(ready, records[500:1_500])
            caught_up(ready)
        publish(ready, records[1_500:])
        caught_up(ready)
    assert ask(ready, "SELECT count(), uniqExact(event_id) FROM events") == [(2_000, 2_000)]


@pytest.mark.timeout(180)
def test_every_partition_is_read_after_all_died_amid_a_rebalance(ready: Settings, registry: Registry, tmp_path: Path) -> None:
    """Members that come back under their names get what they had, without another rebalance: it must have been everything."""
    mark = tmp_path / "mark"
    environment = {**os.environ, **ready.environment(), MARK: str(mark)}

    def start(instance: str, planted: str | None = None) -> Forked:
        return Forked(work, planted, ("worker", "record", "--instance", instance), environment, tmp_path / "log")

    def some(numbers: range) -> list[Record]:
        """In the first topics and in the last."""
        return raw(registry, *((page_view, email_click)[number % 2](number, utk=utk(str(number))) for number in numbers))

    publish(ready, some(range(100)))
    first = start("0", f"record {LEAVING}")
    caught_up(ready)
    second = start("1")
    assert first.wait(30) == -signal.SIGKILL
    time.sleep(1)  # until it has heard what it gets now, before the first could say that it has given it up
    second.kill()
    assert mark.exists()
    publish(ready, some(range(100, 200)))
    both = [start("0"), start("1")]
    try:
        caught_up(ready)
    finally:
        for each in both:
            each.kill()
    assert ask(ready, "SELECT count(), uniqExact(type) FROM events") == [(200, 2)]


def test_a_derived_record_that_cannot_be_read_is_a_bug_and_ends_the_process(ready: Settings) -> None:
    publish(ready, [("sessions", b"1|a|b", b"\x00\x00\x00\x00\x07damaged")])
    with pytest.raises(UnreadableError), recording(ready) as recorder:
        until_ended(recorder)


def test_records_that_were_deleted_unread_stop_us_until_that_is_allowed(ready: Settings, registry: Registry) -> None:
    """Nothing is skipped without a word, neither at the start nor while we are behind."""
    topic = commit(ready, "page-views", 0)
    publish(ready, raw(registry, *(page_view(number) for number in range(5))))
    partition = next(place.partition for place in ends(ready, topic) if place.offset == 5)
    delete_before(ready, TopicPartition(topic, partition, 3))
    with pytest.raises(DeletedError, match=r"3 records were deleted .* offsets 0 to 2"), recording(ready) as recorder:
        until_ended(recorder)
    assert ask(ready, "SELECT count() FROM events") == [(0,)]
    skipping = ready.model_copy(update={"worker": Worker(deleted_records="skip")})
    with recording(skipping):
        caught_up(skipping)
    assert ask(ready, "SELECT count() FROM events") == [(2,)]


def test_a_raw_topic_that_was_made_anew_is_recorded_from_its_beginning(ready: Settings, registry: Registry) -> None:
    commit(ready, "page-views", 1_000)
    publish(ready, raw(registry, page_view(1)))
    with recording(ready):
        until(lambda: ask(ready, "SELECT count() FROM events") == [(1,)])


def test_kafka_may_be_away_when_a_partition_is_to_begin(ready: Settings, registry: Registry) -> None:
    """Nothing is begun then, and again after the next read; the others go on."""

    class Away:
        """A consumer whom nobody tells, twice, where a partition ends."""

        def __init__(self, consumer: Consumer) -> None:
            self._consumer = consumer
            self.asked = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._consumer, name)

        def get_watermark_offsets(self, *place: Any) -> Any:
            self.asked += 1
            if self.asked <= 2:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            return self._consumer.get_watermark_offsets(*place)

    def away(recorder: Recorder) -> None:
        recorder._consumer = Away(recorder._consumer)  # type: ignore[assignment]

    commit(ready, "page-views", 1_000)
    publish(ready, raw(registry, page_view(1)))
    with recording(ready, away) as recorder:
        until(lambda: ask(ready, "SELECT count() FROM events") == [(1,)])
    assert recorder._consumer.asked > 2  # type: ignore[attr-defined]


def test_a_derived_topic_that_was_made_anew_is_refused(ready: Settings) -> None:
    """Its rows would have smaller versions than those that are there, and never be seen."""
    commit(ready, "sessions", 1_000)
    with pytest.raises(MadeAnewError, match=r"sessions\[.\] ends at offset 0, and record has come to 1,000"), recording(ready) as recorder:
        until_ended(recorder)


def test_a_derived_topic_that_was_made_anew_and_is_as_long_as_before_is_refused(ready: Settings, registry: Registry) -> None:
    """Kafka forgot with the old one what was committed of it: only its id tells."""
    with recording(ready):
        publish(ready, raw(registry, page_view(1)))
        caught_up(ready)
    with recording(ready):  # the same topics: nothing to say
        caught_up(ready)
    delete_topic(ready, "sessions")
    topics.create_topics(ready)
    with (
        pytest.raises(MadeAnewError, match=r"sessions: deleted and made again since it was recorded.*kafka.topic_prefix"),
        recording(ready),
    ):
        pass


def test_a_raw_topic_that_is_made_anew_is_recorded_whole(ready: Settings, registry: Registry) -> None:
    """While `record` runs it ends, and says why; then it begins with the new one."""
    with pytest.raises(UserError, match=r"page-views.*topics create"), recording(ready) as recorder:  # noqa: PT012
        publish(ready, raw(registry, page_view(1)))
        caught_up(ready)
        delete_topic(ready, "page-views")
        until_ended(recorder)
    topics.create_topics(ready)
    publish(ready, raw(registry, *(page_view(second) for second in range(2, 5))))
    with recording(ready):
        caught_up(ready)
    assert ask(ready, "SELECT count() FROM events") == [(4,)]


def test_a_silent_clickhouse_does_not_keep_a_recorder_from_ending(ready: Settings) -> None:
    """It takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        asking = ready.model_copy(
            update={"clickhouse": ready.clickhouse.model_copy(update={"port": port, "options": {"send_receive_timeout": "60"}})}
        )
        recorder = Forked(ended_with, asking)
        silent.settimeout(40)
        connection, _ = silent.accept()
        asked = time.monotonic()
        recorder.signal(signal.SIGTERM)
        assert recorder.wait(30) == 0
        assert time.monotonic() - asked < DRAIN_S + 2
        connection.close()


def ended_with(settings: Settings) -> NoReturn:
    sys.exit(record.run(settings))


def test_copies_are_looked_for_after_a_while_however_many_events_there_are(
    ready: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load a look waits for a share of all events; not for ever, since nothing is committed before."""
    monkeypatch.setattr(record, "CHECK_EVENTS", 0)
    monkeypatch.setattr(record, "CHECK_SHARE", 1e-9)
    with recording(ready):
        publish(ready, raw(registry, page_view(1)))
        caught_up(ready)

    def never_look(recorder: Recorder) -> None:
        recorder._settle = lambda: None  # type: ignore[method-assign]

    with recording(ready, never_look) as recorder:
        publish(ready, raw(registry, page_view(2)))
        until(lambda: ask(ready, "SELECT count() FROM event_rows") == [(2,)])
    assert recorder._may_check_later()
    monkeypatch.setattr(record, "CHECK_S", 0.0)
    assert not recorder._may_check_later()


def test_a_recorder_whose_name_another_has_taken_ends(ready: Settings) -> None:
    """Kafka's client is dead then and says nothing more: waiting would be for ever."""
    named = ready.model_copy(update={"worker": Worker(instance="a")})
    with pytest.raises(UserError, match=r"ended our membership of the group.*worker.instance \('a'\)"), recording(named) as first:
        until_another_ends(first, named)


def commit(settings: Settings, topic: str, offset: int) -> str:
    """As if the group had recorded so much of every partition; the topic as Kafka knows it."""
    consumer = kafka.consumer(settings, record.PART)
    name = kafka.topic_name(settings, topic)
    consumer.commit(offsets=[TopicPartition(name, number, offset) for number in range(6)], asynchronous=False)
    consumer.close()
    return name


def ends(settings: Settings, topic: str) -> list[TopicPartition]:
    consumer = kafka.consumer(settings)
    found = [TopicPartition(topic, number, consumer.get_watermark_offsets(TopicPartition(topic, number), 10)[1]) for number in range(6)]
    consumer.close()
    return found


def delete_before(settings: Settings, place: TopicPartition) -> None:
    admin = kafka.admin(settings)
    admin.delete_records([place])[place].result(timeout=30)


def until_another_ends(first: Recorder, settings: Settings) -> None:
    """By beginning under its name."""
    until(first._consumer.assignment)
    with recording(settings):
        until_ended(first)
