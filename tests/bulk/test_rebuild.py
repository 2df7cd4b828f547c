"""A rebuild leaves what live workers leave, and they go on from it; on real servers, with real workers."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from uuid import UUID

import msgspec
import pytest
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from pipeline.adapters import clickhouse, dead_letters, kafka, topics
from pipeline.adapters.avro import Registry
from pipeline.adapters.ceiling import CEILING_RECORDS, CeilingError
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.bulk.neighbours import ends
from pipeline.bulk.rebuild import in_group, rebuild
from pipeline.bulk.workspace import forget, opened
from pipeline.core.outcomes import Reason, Refused
from pipeline.core.policy import Policy
from pipeline.errors import UserError
from pipeline.publish import publish
from pipeline.resolve import resolve_lines
from pipeline.settings import Settings
from tests.adapters.meaning import NO_MERGES
from tests.builders import line, page_view
from tests.end_to_end.collisions import collisions
from tests.end_to_end.reading import resolution_in_clickhouse
from tests.end_to_end.running import caught_up, children, running

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


def table_settings(settings: Settings) -> dict[str, str]:
    """How ClickHouse keeps each table: its order and its settings."""
    query = "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
    return dict(clickhouse.connect(settings).execute(query))


def keep_all_rows(*installations: Settings) -> None:
    """No row of a copy that came several times is merged away: which of its places is told would be up to the moment of that."""
    for settings in installations:
        clickhouse.migrate(settings)
        clickhouse.connect(settings).execute(NO_MERGES)


def live(settings: Settings, log: Path) -> None:
    with running(settings, log, 1):
        caught_up(settings, log)


@pytest.mark.timeout(900)
def test_a_rebuild_leaves_what_live_workers_leave_and_they_go_on(settings: Settings, other: Settings, tmp_path: Path) -> None:
    """Views equal byte for byte; and with later events that touch what was rebuilt, live workers come to what `resolve` says of all."""
    published(settings, [*EARLY, b"no line"], tmp_path)
    poison(settings)
    copied(settings, other)
    keep_all_rows(settings, other)
    live(settings, tmp_path / "live.log")
    told: list[tuple[int, int]] = []
    until = raw_ends(other)
    rebuild(other, Policy(), until, lambda messages, size: told.append((messages, size)))
    expected, shown = views(settings), views(other)
    for view in VIEWS:
        assert shown[view] == expected[view], view
    assert table_settings(other) == table_settings(settings)
    assert told == sorted(told)
    assert told[-1][0] == sum(until.values())
    forget(other)
    assert not list((tmp_path / "rebuild").iterdir())

    published(other, LATER, tmp_path)
    live(other, tmp_path / "other.log")
    resolution = resolve_lines(enumerate([*LINES, line(ASTRAY)], 1), Policy())
    found = resolution_in_clickhouse(other)
    for name in ("contacts", "links", "sessions", "events"):
        assert getattr(found, name) == getattr(resolution, name), name
    assert sorted(row.detail for row in found.rejected) == sorted(row.detail for row in resolution.rejected)


REBUILD = """
import msgspec, sys
from pipeline.bulk.rebuild import rebuild
from pipeline.bulk.workspace import opened
from pipeline.core.policy import Policy
from pipeline.errors import UserError
from pipeline.settings import load
if __name__ == "__main__":
    until = {(topic, partition): offset for topic, partition, offset in msgspec.json.decode(sys.argv[1])}
    rebuild(load(), Policy(), until, lambda messages, size: print(messages, flush=True))
"""


@pytest.mark.timeout(900)
def test_killed_again_and_again_it_comes_to_the_same(settings: Settings, other: Settings, tmp_path: Path) -> None:
    """Kill -9 amid reading and later: called again with the same arguments it goes on, and leaves what an undisturbed rebuild leaves."""
    published(settings, EARLY, tmp_path)
    poison(settings)
    copied(settings, other)
    keep_all_rows(settings, other)
    rebuild(settings.model_copy(update={"data_dir": tmp_path / "undisturbed"}), Policy(), raw_ends(settings), lambda *_: None)
    expected = views(settings)

    program = tmp_path / "program.py"
    program.write_text(REBUILD)
    finished: list[int] = []
    for unit in ("read page-views 1", "settle copies", "sessionize 4", None):
        with (tmp_path / "rebuild.log").open("ab") as log:
            process = _started(program, other, log)
            if unit is not None:
                _until_finished(process, tmp_path, unit)
                workers = children(process.pid)
                process.kill()
                _until_dead(workers)
            assert (process.wait(180) == 0) == (unit is None), (tmp_path / "rebuild.log").read_text()
        finished.append(len(list(tmp_path.glob("rebuild/*/*.done"))))
    assert finished == sorted(finished)
    shown = views(other)
    for view in VIEWS:
        assert shown[view] == expected[view], view


def test_a_used_installation_is_refused(settings: Settings, tmp_path: Path) -> None:
    """A second rebuild over what workers may have gone on from would take their offsets back."""
    topics.create_topics(settings)
    clickhouse.migrate(settings)
    published(settings, EARLY[:20], tmp_path)
    mine = settings.model_copy(update={"data_dir": tmp_path})
    with pytest.raises(UserError, match=r"page-views\[0\] 99 was asked for"):
        rebuild(mine, Policy(), {("page-views", 0): 99}, lambda *_: None)
    with pytest.raises(UserError, match="no partition of a raw topic"):
        rebuild(mine, Policy(), {("sessions", 0): 1}, lambda *_: None)
    rebuild(mine, Policy(), raw_ends(mine), lambda *_: None)
    rebuild(mine, Policy(), raw_ends(mine), lambda *_: None)
    forget(mine)
    with pytest.raises(UserError, match="has committed offsets"):
        rebuild(mine, Policy(), raw_ends(mine), lambda *_: None)


def test_a_clickhouse_too_old_to_delay_merges_rebuilds_as_well(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting spares work, nothing more."""
    monkeypatch.setattr("pipeline.bulk.rebuild._SETTING", "no_setting_of_this_name")
    topics.create_topics(settings)
    clickhouse.migrate(settings)
    published(settings, [line(ASTRAY)], tmp_path)
    mine = settings.model_copy(update={"data_dir": tmp_path})
    rebuild(mine, Policy(), raw_ends(mine), lambda *_: None)
    assert len(views(mine)["events"]) == 1


def test_a_flood_of_refused_records_ends_it_before_they_are_buried(settings: Settings, tmp_path: Path) -> None:
    """Letters are common to all generations: with a wrong registry a rebuild would bury all that the live one has stored."""
    topics.create_topics(settings)
    clickhouse.migrate(settings)
    producer = kafka.producer(settings)
    for _ in range(CEILING_RECORDS):
        producer.produce(kafka.topic_name(settings, "page-views"), b"\x00\x00\x00\x03\xe7 by another registry", b"k")
        producer.poll(0)
    assert producer.flush(30) == 0
    mine = settings.model_copy(update={"data_dir": tmp_path})
    with pytest.raises(CeilingError, match=r"10,000 of the last 10,000 records .* unknown_schema"):
        rebuild(mine, Policy(), raw_ends(mine), lambda *_: None)
    assert sum(ends(settings, ["dead-letters"]).values()) == 0
    assert views(mine)["failed_events"] == []


def test_what_was_refused_once_and_is_an_event_by_now_is_stored_and_not_failed(settings: Settings, tmp_path: Path) -> None:
    topics.create_topics(settings)
    clickhouse.migrate(settings)
    published(settings, [line(ASTRAY), b"no line"], tmp_path)
    (place,) = (place for place, end in raw_ends(settings).items() if end)
    about = Refused(Reason.UNKNOWN_SCHEMA, "the schema id: expected one that the registry knows")
    (message,) = _read(settings, *place, 1)
    producer = kafka.producer(settings)
    key, value, headers = dead_letters.bury(about, "record", message, place[0])
    producer.produce(kafka.topic_name(settings, "dead-letters"), value, key, headers=headers)  # type: ignore[arg-type]
    assert producer.flush(30) == 0
    mine = settings.model_copy(update={"data_dir": tmp_path})
    rebuild(mine, Policy(), raw_ends(mine), lambda *_: None)
    shown = (
        clickhouse.connect(mine).execute("SELECT event_id FROM events"),
        clickhouse.connect(mine).execute("SELECT value FROM failed_events"),
    )
    assert shown == ([(UUID(ASTRAY.event_id),)], [("no line",)])


def test_a_coordinator_that_is_not_there_yet_is_waited_for(settings: Settings) -> None:
    """A broker that has just started says so; it ended a replay."""
    topics.create_topics(settings)
    refusals = iter([KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS])

    def committed(consumer: Consumer) -> list[TopicPartition]:
        if (code := next(refusals, None)) is not None:
            raise KafkaException(KafkaError(code))
        return consumer.committed([TopicPartition(kafka.topic_name(settings, "page-views"), 0)], timeout=30)

    assert [place.offset for place in in_group(settings, "sessionize", committed)] == [OFFSET_INVALID]


def test_a_group_that_refuses_is_told(settings: Settings) -> None:
    """As when a worker has joined it meanwhile: no traceback."""

    def joined(_: Consumer) -> None:
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))

    with pytest.raises(UserError, match=r"group .*record: .*If a worker has joined it, end that"):
        in_group(settings, "record", joined)


def test_another_rebuild_in_the_same_place_is_refused(settings: Settings, tmp_path: Path) -> None:
    """What was spilled up to other offsets, or under another policy, must not be mixed in."""
    mine = settings.model_copy(update={"data_dir": tmp_path})
    with pytest.raises(RuntimeError, match="stopped"), opened(mine, Policy(), {}, {("page-views", 0): 5}):
        raise RuntimeError("stopped")
    with pytest.raises(UserError, match="other ends"), opened(mine, Policy(), {}, {("page-views", 0): 6}):
        pass


def _started(program: Path, settings: Settings, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    until = [(topic, partition, offset) for (topic, partition), offset in raw_ends(settings).items()]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, **settings.environment(), "PYTHONPATH": str(root)}
    return subprocess.Popen([sys.executable, str(program), msgspec.json.encode(until).decode()], env=environment, stdout=log, stderr=log)


def _until_finished(process: "subprocess.Popen[bytes]", directory: Path, unit: str) -> None:
    """Until this unit of work is finished: others are being worked on then."""
    while process.poll() is None and not list(directory.glob(f"rebuild/*/{unit}.done")):
        time.sleep(0.02)


def _until_dead(pids: Sequence[int]) -> None:
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3] for pid in pids):
        assert time.monotonic() < deadline, "processes of a killed rebuild live on"
        time.sleep(0.05)
