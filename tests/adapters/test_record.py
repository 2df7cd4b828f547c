"""`record`: what is in the topics is in ClickHouse, once, and what cannot be is among the dead letters."""

import time
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import TopicPartition

from pipeline import record
from pipeline.adapters import kafka
from pipeline.adapters.avro import Registry
from pipeline.core.policy import Policy
from pipeline.resolve import resolve_events
from pipeline.settings import Settings
from tests.adapters.meaning import key_of, sessions
from tests.adapters.recording import ask, caught_up, publish, raw, read, recording
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


@pytest.mark.parametrize(
    ("key", "value", "reason", "error"),
    [
        (
            b"\xff key",
            b"no avro \xff",
            b"malformed_avro",
            b"the value: expected a zero byte and a schema id of four bytes before the record",
        ),
        (None, b"\x00\x00\x00\x03\xe7rest", b"unknown_schema", b"schema id 999: the registry has no Avro schema under it"),
        (b"", None, b"malformed_avro", b"the value: expected Avro, not null"),
    ],
)
def test_a_letter_says_all_about_its_record(ready: Settings, key: bytes | None, value: bytes | None, reason: bytes, error: bytes) -> None:
    """Key, value and headers are the record's, byte for byte; eight headers follow, and the row of failed_events says the same."""
    own: list[tuple[str, str | bytes | None]] = [("trace", b"\xff\x00"), ("trace", None), ("dlq.reason", b"its own"), ("", b"")]
    producer = kafka.producer(ready)
    for at, each in enumerate([b"1", b"2", b"3", value], 1_700_000_000_123):
        producer.produce(kafka.topic_name(ready, "page-views"), each, key, 2, timestamp=at, headers=own)
        assert producer.flush(30) == 0
    with recording(ready):
        caught_up(ready)
    (letter,) = [letter for letter in read(ready, "dead-letters") if dict(letter.headers() or [])["dlq.offset"] == b"3"]
    assert (letter.key(), letter.value()) == (key, value)
    assert letter.headers() == [
        *own,
        ("dlq.reason", reason),
        ("dlq.error", error),
        ("dlq.topic", b"page-views"),
        ("dlq.partition", b"2"),
        ("dlq.offset", b"3"),
        ("dlq.timestamp", b"1700000000126"),
        ("dlq.part", b"record"),
        ("dlq.version", tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"].encode()),
    ]
    in_hex = None if key is None else key.hex().upper(), (value or b"").hex().upper()
    said = "reason, detail, topic, partition, toUnixTimestamp64Milli(assumeNotNull(timestamp)), part, portal_id, event_id"
    assert ask(ready, f"SELECT {said}, hex(key), hex(value) FROM failed_events WHERE offset = 3") == [
        (reason.decode(), error.decode(), "page-views", 2, 1_700_000_000_126, "record", None, None, *in_hex)
    ]


def test_a_record_that_no_letter_holds_is_kept_by_its_beginning(ready: Settings, registry: Registry) -> None:
    """Compressed it is small; as it is, Kafka does not take it. Neither it nor its headers stop anybody."""
    producer = kafka.producer(ready, **{"message.max.bytes": 1 << 28})
    name = kafka.topic_name(ready, "page-views")
    producer.produce(name, b"x" * 17_000_000, b"k")
    producer.produce(name, b"y" * 20, b"z" * 8_000_000, headers={"long": b"h" * 9_000_000})
    assert producer.flush(30) == 0
    publish(ready, raw(registry, page_view(1)))
    with recording(ready):
        caught_up(ready)
    assert ask(ready, "SELECT count() FROM events") == [(1,)]
    assert ask(ready, "SELECT reason, length(key), length(value) FROM failed_events ORDER BY length(value)") == [
        ("malformed_avro", 1_000_000, 20),
        ("too_large", 1, 1_000_000),
    ]
    assert {dict(letter.headers() or [])["dlq.size"] for letter in read(ready, "dead-letters")} == {b"17000000", b"20"}


def test_what_a_later_generation_refused_is_not_refused_in_this_one(ready: Settings) -> None:
    headers = {"dlq.reason": b"unknown_schema", "dlq.topic": b"page-views", "dlq.partition": b"0", "dlq.part": b"record"}
    publish(ready, [("dead-letters", b"k", b"1")], headers | {"dlq.offset": b"1"})
    publish(ready, [("dead-letters", b"k", b"2")], headers | {"dlq.offset": b"2", "dlq.generation": b"2"})
    with recording(ready):
        caught_up(ready)
    assert ask(ready, "SELECT value FROM failed_events") == [("1",)]


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
