"""`record`: what is in the topics is in ClickHouse, once, and what cannot be is among the dead letters."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clickhouse_driver import Client
from confluent_kafka import TopicPartition

from pipeline import record
from pipeline.adapters import ceiling, clickhouse, kafka, topics
from pipeline.adapters.avro import Registry, UnreadableError
from pipeline.adapters.ceiling import Ceiling, CeilingError
from pipeline.adapters.deleted import DeletedError, MadeAnewError
from pipeline.adapters.pending import FLUSH_BYTES, FLUSH_ROWS, Pending
from pipeline.core.outcomes import Reason, Refused
from pipeline.core.policy import Policy
from pipeline.errors import UserError
from pipeline.record import Recorder
from pipeline.resolve import resolve_events
from pipeline.settings import DeadLetters, Settings, Worker
from tests.adapters.meaning import key_of, sessions
from tests.adapters.recording import Gate, caught_up, publish, raw, read, recording
from tests.builders import (
    START,
    contact_import,
    contact_merge,
    custom_event,
    email_click,
    form_submission,
    identify,
    page_view,
    retraction,
    utk,
)
from tests.end_to_end.reading import resolution_in_clickhouse

EVERYTHING = (
    page_view(
        1,
        title="Home",
        referrer="https://y.io/",
        user_agent="Mozilla",
        ip="192.0.2.0",
        new_browser_session=True,
        hstc="h",
        hssc="s",
        properties={"plan": "pro"},
        received_at=START + 7,
    ),
    page_view(2, utk=None),
    email_click(3, bot=True, user_agent="curl", ip="192.0.2.1", properties={"a": 1}),
    form_submission(
        4, email="a@x.io", page_url="https://x.io/form", fields=[("n", "1"), ("n", "2")], create_new_contact=True, use_cookie=False
    ),
    identify(5, external_id="crm-1"),
    custom_event(6, properties={"deep": {"er": [1, None]}}),
    contact_import(7, external_id="crm-2"),
    retraction(8, retracts=99, properties={"why": "a test"}),
    contact_merge(9),
)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(Settings())


@pytest.fixture
def ready(settings: Settings, tmp_path: Path) -> Settings:
    """Settings whose topics exist."""
    topics.create_topics(settings)
    return settings.model_copy(update={"data_dir": tmp_path})


def ask(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    client: Client = clickhouse.connect(settings)
    rows: list[tuple[Any, ...]] = client.execute(query)
    client.disconnect()
    return rows


def test_every_field_of_every_type_arrives(ready: Settings, registry: Registry) -> None:
    """One row each with the fields that were published; absent is NULL for the reader."""
    publish(ready, raw(registry, *EVERYTHING))
    with recording(ready):
        caught_up(ready)
    columns = dict.fromkeys(name for event in EVERYTHING for name in event.__struct_fields__)
    spelled = {"occurred_at": "toUnixTimestamp64Milli(occurred_at)", "received_at": "toUnixTimestamp64Milli(received_at)"}
    rows = ask(ready, f"SELECT type, {', '.join(spelled.get(name, name) for name in columns)} FROM events ORDER BY toString(event_id)")
    assert [present(dict(zip(("type", *columns), row, strict=True))) for row in rows] == [
        present({"type": event.type} | msgspec.structs.asdict(event)) for event in EVERYTHING
    ]


def present(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that are there; pairs and ids as both sides can compare them."""
    spelled = {"event_id": str, "retracts": str, "fields": list}
    texts = {name: spelled.get(name, lambda it: it)(value) for name, value in fields.items() if value}
    return texts | {name: value for name, value in fields.items() if value is False}


def test_derived_records_become_the_views_and_what_is_gone_disappears(ready: Settings, registry: Registry) -> None:
    events = [page_view(1), page_view(2, utk="b"), form_submission(3, at=START + 1, email="a@x.io")]
    meaning = resolve_events(events, Policy())
    of_b = next(session for session in sessions(meaning) if session["utk"] == utk("b"))
    publish(ready, raw(registry, *events))
    publish(ready, [("sessions", key_of("sessions", session), registry.encode("session", session)) for session in sessions(meaning)])
    publish(ready, [("sessions", key_of("sessions", of_b), None)])
    with recording(ready):
        caught_up(ready)
    seen = resolution_in_clickhouse(ready)
    assert seen.sessions == [session for session in meaning.sessions if session.utk == utk("a")]


def test_a_refused_record_is_a_dead_letter_and_its_neighbours_arrive(ready: Settings, registry: Registry) -> None:
    """Key, bytes and headers as they were; one row of failed_events, also when the record is read twice."""
    good = raw(registry, page_view(1), page_view(2))
    publish(ready, good[:1])
    publish(ready, [("page-views", b"\xff key", b"no avro \xff")], headers={"trace": b"abc"})
    publish(ready, [("page-views", b"k", None)])
    publish(ready, good[1:])
    with recording(ready):
        caught_up(ready)
    forget_progress(ready)
    with recording(ready):
        caught_up(ready)

    assert ask(ready, "SELECT count() FROM events") == [(2,)]
    failed = ask(ready, "SELECT reason, topic, hex(key), hex(value), part, offset >= 0 FROM failed_events ORDER BY value")
    assert failed == [
        ("malformed_avro", "page-views", b"k".hex().upper(), "", "record", 1),
        ("malformed_avro", "page-views", b"\xff key".hex().upper(), b"no avro \xff".hex().upper(), "record", 1),
    ]
    letter = next(message for message in read(ready, "dead-letters") if message.value())
    headers = dict(letter.headers() or [])
    assert (letter.key(), letter.value(), headers["trace"]) == (b"\xff key", b"no avro \xff", b"abc")
    assert (headers["dlq.reason"], headers["dlq.topic"], headers["dlq.part"]) == (b"malformed_avro", b"page-views", b"record")


def forget_progress(settings: Settings) -> None:
    """As if nothing had been committed."""
    admin = kafka.admin(settings)
    for answer in admin.delete_consumer_groups([kafka.group_name(settings, record.PART)]).values():
        answer.result()


def test_a_refused_line_counts_once_however_often_its_file_is_published(ready: Settings) -> None:
    headers = {"dlq.reason": b"malformed_json", "dlq.error": b"the line", "dlq.topic": b"", "dlq.partition": b"-1", "dlq.part": b"publish"}
    for line_number in (b"3", b"8"):
        publish(ready, [("dead-letters", None, b"{")], headers | {"dlq.offset": line_number})
    publish(ready, [("dead-letters", None, b"{{")], headers | {"dlq.offset": b"4"})
    with recording(ready):
        caught_up(ready)
    rows = ask(ready, "SELECT value, reason, detail, topic, partition, part FROM failed_events ORDER BY value")
    assert rows == [("{", "malformed_json", "the line", "", None, "publish"), ("{{", "malformed_json", "the line", "", None, "publish")]


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


def test_a_copy_under_another_cookie_is_passed_on_before_the_commit(ready: Settings, registry: Registry) -> None:
    publish(ready, raw(registry, page_view(1, utk="a"), page_view(1, utk="b")))
    with recording(ready):
        caught_up(ready)
    passed_on = {message.key(): message.value() for message in read(ready, "event-copies")}
    assert passed_on == {
        utk("a").encode(): registry.encode_event(page_view(1, utk="b")),
        utk("b").encode(): registry.encode_event(page_view(1, utk="a")),
    }
    assert ask(ready, "SELECT count() FROM events") == [(1,)]


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


def test_commits_say_when_they_were_made(ready: Settings, registry: Registry) -> None:
    """`status` reads it: epoch milliseconds, as metadata."""
    publish(ready, raw(registry, page_view(1)))
    with recording(ready):
        caught_up(ready)
    consumer = kafka.consumer(ready, record.PART)
    places = [TopicPartition(kafka.topic_name(ready, "page-views"), number) for number in range(6)]
    said = [int(at.metadata or 0) for at in consumer.committed(places, timeout=10) if at.offset > 0]
    consumer.close()
    assert [abs(time.time() * 1000 - moment) < 60_000 for moment in said] == [True]


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


def test_a_derived_topic_that_was_made_anew_is_refused(ready: Settings) -> None:
    """Its rows would have smaller versions than those that are there, and never be seen."""
    commit(ready, "sessions", 1_000)
    with pytest.raises(MadeAnewError, match=r"sessions\[.\] ends at offset 0, and record has come to 1,000"), recording(ready) as recorder:
        until_ended(recorder)


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


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 40
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def until_another_ends(first: Recorder, settings: Settings) -> None:
    """By beginning under its name."""
    until(first._consumer.assignment)
    with recording(settings):
        until_ended(first)


def until_ended(recorder: Recorder) -> None:
    def is_closed() -> bool:
        try:
            recorder._consumer.assignment()
        except RuntimeError:
            return True
        return False

    until(is_closed)


def test_a_flood_of_refused_records_stops_us_before_it_is_buried(
    ready: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says why, and the topic keeps its records: with the ceiling lifted they go among the dead letters."""
    monkeypatch.setattr(ceiling, "CEILING_RECORDS", 100)
    publish(ready, [("page-views", b"k", b"no avro")] * 60 + raw(registry, *(page_view(number) for number in range(40))))
    stop = threading.Event()
    with pytest.raises(CeilingError, match=r"60 of the last 100 records .* malformed_avro .* dead_letters\.ceiling=1"):
        record.recorder(ready, stop).run()
    assert read(ready, "dead-letters") == []
    lifted = ready.model_copy(update={"dead_letters": DeadLetters(ceiling=1)})
    with recording(lifted):
        caught_up(ready)
    assert len(read(ready, "dead-letters")) == 60
    assert ask(ready, "SELECT count() FROM events") == [(40,)]


def test_the_ceiling_is_a_share_of_the_last_records() -> None:
    """A few refused records among many are no reason to stop, nor are many among few; an old flood is forgotten."""
    ceiling = Ceiling(0.5)
    refused = [Refused(Reason.UNKNOWN_SCHEMA, "schema id 99")] * 4_000
    ceiling.check(0, refused)
    ceiling.check(0, refused)
    ceiling.check(9_000, [])
    ceiling.check(0, refused[:400])
    for _ in range(10):
        ceiling.check(4_000, refused[:3_000])
    with pytest.raises(CeilingError, match="unknown_schema"):
        ceiling.check(0, refused)


class Message:
    """As much of Kafka's message as `Pending` looks at."""

    def __init__(self, topic: str, partition: int, size: int = 10) -> None:
        self._place, self._size = (topic, partition), size

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]

    def __len__(self) -> int:
        return self._size


def pending(*messages: Any, at: float) -> Pending:
    pending = Pending()
    pending.add(messages, at)
    return pending


def test_a_flush_is_due_a_quarter_of_a_second_after_the_first_record() -> None:
    some = pending(Message("a", 0), at=100.0)
    some.add([Message("a", 0)], 100.2)  # type: ignore[list-item]
    assert (some.is_due(100.24), some.is_due(100.25), pending(at=0.0).is_due(1_000.0)) == (False, True, False)


def test_a_flush_is_due_when_the_records_are_many_or_large() -> None:
    many = pending(*[Message("a", 0)] * FLUSH_ROWS, at=100.0)
    large = pending(Message("a", 0, size=FLUSH_BYTES), at=100.0)
    assert (many.is_due(100.0), large.is_due(100.0)) == (True, True)


def test_records_of_a_lost_partition_are_forgotten() -> None:
    some = pending(Message("a", 0), Message("a", 1), Message("b", 0), at=100.0)
    some.drop({("a", 0)})
    assert (some.rows, some.bytes, some.since, {name: len(messages) for name, messages in some.messages.items()}) == (
        2,
        20,
        100.0,
        {"a": 1, "b": 1},
    )
