"""`publish`: every line of a file is an event in its raw topic, or a dead letter, or blank."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # not in its __all__
from structlog.testing import capture_logs

from pipeline import publish as publishing
from pipeline.adapters import dead_letters, kafka
from pipeline.adapters.avro import Registry
from pipeline.adapters.contracts import RAW_TOPICS, load_topics
from pipeline.core.events import Event
from pipeline.errors import UserError
from pipeline.publish import publish
from pipeline.settings import Kafka, Settings
from tests import builders

VIEW = builders.page_view(1, utk="a")
EVENTS: list[Event] = [
    VIEW,
    builders.page_view(2, utk=None),
    builders.email_click(3),
    builders.form_submission(4, fields={"a": "b"}),
    builders.identify(5, email="a@x.io"),
    builders.custom_event(6),
    builders.contact_import(7),
    builders.retraction(8),
    builders.contact_merge(9),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def records(settings: Settings, topic: str) -> Iterator[Message]:
    """Every record of a topic, by its logical name."""
    consumer = kafka.consumer(settings)
    places = [TopicPartition(kafka.topic_name(settings, topic), partition, 0) for partition in range(load_topics()[topic].partitions)]
    left = sum(consumer.get_watermark_offsets(place)[1] for place in places)
    consumer.assign(places)
    while left:
        for message in consumer.consume(left, timeout=10):
            assert message.error() is None, message.error()
            left -= 1
            yield message
    consumer.close()


def value_of(message: Message) -> bytes:
    value = message.value()
    assert isinstance(value, bytes)
    return value


def headers_of(message: Message) -> dict[str, str]:
    return {str(name): bytes(value).decode() for name, value in cast("list[tuple[str, bytes]]", message.headers())}


def letters(settings: Settings) -> list[tuple[bytes, dict[str, str]]]:
    """The dead letters with their headers, in the order of their lines."""
    found = [(value_of(message), headers_of(message)) for message in records(settings, dead_letters.TOPIC)]
    return sorted(found, key=lambda letter: int(letter[1]["dlq.offset"]))


def test_every_event_arrives_in_the_topic_of_its_type(settings: Settings, file: Path) -> None:
    """Events of all types are read back from their topics as they were, keyed by cookie or by event id."""
    file.write_bytes(b"".join(builders.line(event) + b"\n" for event in EVENTS))
    counts = publish(settings, file)
    assert dict(counts.published) == {"page_view": 2} | dict.fromkeys(list(RAW_TOPICS)[1:], 1)
    assert not counts.refused
    registry = Registry(settings)
    arrived = []
    for topic in RAW_TOPICS.values():
        for message in records(settings, topic):
            (batch,) = registry.decode_events([value_of(message)], topic).batches
            (event,) = batch.events()
            assert message.key() == (event.utk or event.event_id).encode()
            arrived.append(event)
    assert sorted(arrived, key=lambda event: event.event_id) == EVENTS


def test_keys_are_partitioned_as_java_clients_do(settings: Settings, file: Path) -> None:
    """A key stands in the partition that murmur2, the partitioner of Java clients, gives it."""
    file.write_bytes(b"".join(builders.line(builders.page_view(number, utk=str(number))) + b"\n" for number in range(50)))
    publish(settings, file)
    partitions = load_topics()["page-views"].partitions
    for message in records(settings, "page-views"):
        assert message.partition() == (_murmur2(bytes(message.key() or b"")) & 0x7FFFFFFF) % partitions


def test_lines_end_with_lf_or_crlf_and_nothing_else(settings: Settings, file: Path) -> None:
    """Line numbers count blank lines; other characters that end lines elsewhere are part of the line."""
    title = "a\u2028b\x0b\x0c\x85c"
    shown = json.dumps(builders.as_object(VIEW) | {"title": title}, ensure_ascii=False).replace("\\u000b", "\\u000B").encode()
    file.write_bytes(shown + b"\r\n\r\n \n\nnot json\r\n" + b'{"type":"page_view"}')
    counts = publish(settings, file)
    assert (counts.lines, dict(counts.published), dict(counts.refused)) == (6, {"page_view": 1}, {"malformed_json": 1, "missing_field": 1})
    assert [(value, about["dlq.offset"]) for value, about in letters(settings)] == [(b"not json", "5"), (b'{"type":"page_view"}', "6")]
    (message,) = records(settings, "page-views")
    (batch,) = Registry(settings).decode_events([value_of(message)]).batches
    assert batch.columns["title"] == [title]


def test_a_refused_line_is_a_dead_letter_with_its_reason(settings: Settings, file: Path) -> None:
    """The line itself is the value, without its end; the headers say why, who, and which line; there is no key."""
    wrong = builders.line(VIEW, url="example.com")
    file.write_bytes(builders.line(VIEW) + b"\n" + wrong + b"\n")
    publish(settings, file)
    (letter,) = records(settings, dead_letters.TOPIC)
    assert (letter.key(), letter.value()) == (None, wrong)
    about = headers_of(letter)
    assert about.pop("dlq.error").startswith("url: expected")
    assert about.pop("dlq.version")
    assert about == {
        "dlq.reason": "invalid_url",
        "dlq.topic": "",
        "dlq.partition": "-1",
        "dlq.offset": "2",
        "dlq.timestamp": "-1",
        "dlq.part": "publish",
    }


def test_a_line_that_is_too_large_is_kept(settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line over a million bytes is a dead letter as a whole; one beyond what Kafka takes, by its beginning and its size."""
    monkeypatch.setattr(dead_letters, "LONGEST", 3_000_000)
    monkeypatch.setattr(dead_letters, "CUT", 10)
    file.write_bytes(b"x" * 2_000_000 + b"\n" + b"y" * 7_000_000 + b"\n" + builders.line(VIEW) + b"\n")
    counts = publish(settings, file)
    assert (dict(counts.published), dict(counts.refused)) == ({"page_view": 1}, {"too_large": 2})
    whole, cut = letters(settings)
    assert (whole[0], "dlq.size" in whole[1]) == (b"x" * 2_000_000, False)
    assert (cut[0], cut[1]["dlq.size"]) == (b"y" * 10, "7000001")


def test_progress_and_acknowledged_events_are_told(settings: Settings, file: Path) -> None:
    """Progress comes while the file is read; every event is accepted exactly once, when Kafka has it."""
    file.write_bytes(b"".join(builders.line(builders.page_view(number, utk=str(number))) + b"\n" for number in range(5_000)))
    seen: list[int] = []
    accepted: list[Event] = []
    publish(settings, file, progress=lambda counts: seen.append(counts.lines), accepted=accepted.append)
    assert seen == [2_000, 4_000]
    assert sorted(event.event_id for event in accepted) == [builders.event_id(number) for number in range(5_000)]


def test_what_kafka_refuses_is_a_failure(settings: Settings, file: Path) -> None:
    """A record that was not delivered ends the command with a failure, however many others arrived."""
    name = kafka.topic_name(settings, "page-views")
    small = dict(load_topics()["page-views"].configs) | {"max.message.bytes": "1000"}
    client = kafka.admin(settings)
    client.create_topics([NewTopic(name, load_topics()["page-views"].partitions, 1, config=small)])[name].result()
    large = builders.page_view(2, title="".join(map(str, range(2_000))))
    file.write_bytes(builders.line(VIEW) + b"\n" + builders.line(large) + b"\n")
    with pytest.raises(UserError, match=r"kafka\.bootstrap_servers is .*: it did not take all records \(1 times .*Publish the file again"):
        publish(settings, file, options={"compression.type": "none", "batch.num.messages": 1})


def test_while_kafka_is_away_we_wait_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line in the log every few seconds, until the delivery timeout ends the wait with a failure."""
    monkeypatch.setattr(publishing, "PATIENCE_S", 0.2)
    away = Settings(kafka=Kafka(bootstrap_servers="127.0.0.1:9"))
    publication = publishing._Publication(away, None, {"delivery.timeout.ms": 1_000, "linger.ms": 1})
    publication.line(1, builders.line(VIEW))
    with capture_logs() as logged, pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        publication.finish()
    waits = [entry for entry in logged if entry["event"] == "waiting for Kafka"]
    assert len(waits) >= 2
    assert waits[-1]["records"] == 1
    assert "Connection refused" in waits[-1]["error"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The message has the path."""
    with pytest.raises(UserError, match=r"cannot read .*none\.jsonl: No such file"):
        publish(Settings(), tmp_path / "none.jsonl")


def _murmur2(key: bytes) -> int:
    """MurmurHash 2 with the seed of Kafka's Java client, by the book."""
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    hashed = 0x9747B28C ^ len(key)
    whole = len(key) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(key[at : at + 4], "little") * multiplier & mask
        hashed = (hashed * multiplier & mask) ^ ((word ^ word >> 24) * multiplier & mask)
    if rest := key[whole:]:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * multiplier & mask
    hashed = (hashed ^ hashed >> 13) * multiplier & mask
    return hashed ^ hashed >> 15
