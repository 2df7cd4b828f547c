"""A rebuild leaves what live workers leave, and they go on from it; on real servers, with real workers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from pipeline.adapters import clickhouse, kafka, topics
from pipeline.adapters.avro import Registry
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.bulk.neighbours import ends
from pipeline.bulk.rebuild import rebuild
from pipeline.core.policy import Policy
from pipeline.publish import publish
from pipeline.resolve import resolve_lines
from pipeline.settings import Settings
from tests.builders import line, page_view
from tests.end_to_end.collisions import collisions
from tests.end_to_end.reading import resolution_in_clickhouse
from tests.end_to_end.running import caught_up, running

VIEWS = ("events", "event_owners", "timeline", "sessions", "contacts", "links", "failed_events")
LINES = collisions(4_000, seed=3)
EARLY, LATER = LINES[1::2], LINES[::2]
Place = tuple[str, int]


@pytest.fixture
def other(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """A second installation, empty, whose name begins as the first one's does."""
    names = {"kafka": {"topic_prefix": settings.kafka.topic_prefix + "b-"}, "clickhouse": {"database": settings.clickhouse.database + "_b"}}
    sections = {name: getattr(settings, name).model_copy(update=update) for name, update in names.items()}
    made = settings.model_copy(update={**sections, "data_dir": tmp_path})
    topics.create_topics(made)
    clickhouse.migrate(made)
    yield made
    clickhouse.connect(settings).execute(f"DROP DATABASE {made.clickhouse.database}")


def raw_ends(settings: Settings) -> dict[Place, int]:
    return ends(settings, list(RAW_TOPICS.values()))


def published(settings: Settings, lines: list[bytes], directory: Path) -> None:
    file = directory / "events.jsonl"
    file.write_bytes(b"\n".join(lines))
    publish(settings, file)


ASTRAY = page_view(7_000_001, utk="d" * 32, url="https://www.example.com/")


def poison(settings: Settings) -> None:
    """Records that no producer of ours writes: no Avro, no value, and an event under the key of another cookie."""
    producer = kafka.producer(settings)
    astray = Registry(settings).encode_event(ASTRAY)
    for topic, key, value in (("page-views", b"k", b"no event"), ("identifies", b"k", None), ("page-views", b"f" * 32, astray)):
        producer.produce(kafka.topic_name(settings, topic), value, key, headers={"trace": b"\xff"})
    assert producer.flush(30) == 0


def copied(source: Settings, target: Settings) -> None:
    """What is in raw topics and dead letters, at the same places, with the same timestamps."""
    producer = kafka.producer(target)
    for (topic, partition), end in ends(source, [*RAW_TOPICS.values(), "dead-letters"]).items():
        for message in _read(source, topic, partition, end):
            producer.produce(
                kafka.topic_name(target, topic),
                message.value(),
                message.key(),
                partition,
                timestamp=message.timestamp()[1],
                headers=message.headers(),
            )
    assert producer.flush(30) == 0


def _read(settings: Settings, topic: str, partition: int, end: int) -> list[Any]:
    consumer: Consumer = kafka.consumer(settings)
    consumer.assign([TopicPartition(kafka.topic_name(settings, topic), partition, 0)])
    messages: list[Any] = []
    while len(messages) < end:
        messages += consumer.consume(end - len(messages), 5.0)
    consumer.close()
    return messages


def views(settings: Settings) -> dict[str, list[Any]]:
    """All rows of what analysts see."""
    client = clickhouse.connect(settings)
    return {view: sorted(client.execute(f"SELECT * FROM {view}"), key=repr) for view in VIEWS}


def without_places(rows: list[Any]) -> list[Any]:
    """Failed events, where a copy that came several times may be told from any of its places."""
    return sorted(([*row[:3], *(row[3:5] if row[0] != "conflicting_duplicate" else ()), *row[5:]] for row in rows), key=repr)


def live(settings: Settings, log: Path) -> None:
    with running(settings, log, 1):
        caught_up(settings, log)


@pytest.mark.timeout(400)
def test_a_rebuild_leaves_what_live_workers_leave_and_they_go_on(settings: Settings, other: Settings, tmp_path: Path) -> None:
    """Views equal byte for byte; and with later events that touch what was rebuilt, live workers come to what `resolve` says of all."""
    published(settings, [*EARLY, b"no line"], tmp_path)
    poison(settings)
    copied(settings, other)
    live(settings, tmp_path / "live.log")
    told: list[tuple[int, int]] = []
    until = raw_ends(other)
    rebuild(other, Policy(), until, lambda messages, size: told.append((messages, size)))
    expected, shown = views(settings), views(other)
    for view in VIEWS[:-1]:
        assert shown[view] == expected[view], view
    assert without_places(shown["failed_events"]) == without_places(expected["failed_events"])
    assert told == sorted(told)
    assert told[-1][0] == sum(until.values())
    assert not list((tmp_path / "rebuild").iterdir())

    published(other, LATER, tmp_path)
    live(other, tmp_path / "other.log")
    resolution = resolve_lines(enumerate([*LINES, line(ASTRAY)], 1), Policy())
    found = resolution_in_clickhouse(other)
    for name in ("contacts", "links", "sessions", "events"):
        assert getattr(found, name) == getattr(resolution, name), name
    assert sorted(row.detail for row in found.rejected) == sorted(row.detail for row in resolution.rejected)
