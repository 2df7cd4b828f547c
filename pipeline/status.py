"""How the parts are doing: lag from Kafka, refusals from ClickHouse, and what the processes on this machine say of themselves."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.adapters import clickhouse
from pipeline.agents import health
from pipeline.app import ROLES
from pipeline.errors import UserError
from pipeline.lag import Readings, consumed
from pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class TopicStatus:
    """One topic as one part sees it: records that wait at most, and for how long the first has."""

    topic: str
    lag_records: int
    lag_seconds: float


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part: sums and maxima over its topics; `last_commit` in epoch ms, None if nobody says when.

    `late` counts the events that came after the retention of sessions, since the processes on this machine started.
    """

    part: str
    processes: int
    """At work now, on whatever machine; 0 while partitions move."""
    lag_records: int
    lag_seconds: float
    last_commit: int | None
    late: int
    topics: tuple[TopicStatus, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """All parts; `refused` counts the failed events by part and reason, `retracted` the events that do not count any more.

    Both are None if ClickHouse cannot be asked (`problem` says why).
    """

    parts: tuple[PartStatus, ...]
    refused: dict[str, dict[str, int]] | None
    retracted: int | None
    problem: str | None = None
    generation: int = 1
    """Of everything: the one that readers see."""
    now: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


def status(settings: Settings) -> Status:
    """How every part of the settings' generation is doing now. UserError if Kafka does not answer."""
    now = time.time_ns() // 1_000_000
    with Readings(settings, ROLES) as readings:
        parts = tuple(_part(part, readings, list(_said(settings, part)), now) for part in ROLES)
    try:
        return Status(parts, _refused(settings), _retracted(settings), None, settings.generation, now)
    except UserError as error:
        return Status(parts, None, None, str(error), settings.generation, now)


def _part(part: str, kafka: Readings, said: list[dict[str, Any]], now: int) -> PartStatus:
    readings = kafka.read(part, consumed(part))
    topics = [
        TopicStatus(topic, sum(reading.records for reading in of_topic), max(reading.seconds(now) for reading in of_topic))
        for topic in consumed(part)
        if (of_topic := [reading for reading in readings if reading.topic == topic])
    ]
    commits = [reading.committed_at for reading in readings] + [process.get("last_commit_at") for process in said]
    return PartStatus(
        part,
        kafka.processes(part),
        sum(topic.lag_records for topic in topics),
        max((topic.lag_seconds for topic in topics), default=0.0),
        max((commit for commit in commits if commit is not None), default=None),
        sum(process.get("late", 0) for process in said),
        tuple(topics),
    )


def _said(settings: Settings, part: str) -> Iterator[dict[str, Any]]:
    """What the part's processes on this machine wrote about themselves (agents/health.py)."""
    for path in health.directory(settings).glob(f"{part}{settings.suffix}-*.json"):
        try:
            yield json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it ended while we looked
            continue


def _refused(settings: Settings) -> dict[str, dict[str, int]]:
    rows = clickhouse.connect(settings).execute(
        "SELECT part, reason, count() FROM failed_events GROUP BY part, reason ORDER BY part, reason"
    )
    refused: dict[str, dict[str, int]] = {}
    for part, reason, count in rows:
        refused.setdefault(part, {})[reason] = count
    return refused


def _retracted(settings: Settings) -> int:
    ((count,),) = clickhouse.connect(settings).execute("SELECT count() FROM retracted_events")
    return int(count)
