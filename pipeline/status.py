"""How the parts are doing: lag from Kafka, refusals from ClickHouse."""

import time
from dataclasses import dataclass, field

from pipeline.adapters import clickhouse
from pipeline.app import ROLES
from pipeline.errors import UserError
from pipeline.lag import Reading, Readings, consumed
from pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class TopicStatus:
    """One topic as one part sees it: records that wait at most, and for how long the first has."""

    topic: str
    lag_records: int
    lag_seconds: float


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part: sums and maxima over its topics; `last_commit` in epoch ms, None if it never committed or did not say when."""

    part: str
    processes: int
    """At work now, on whatever machine; 0 while partitions move."""
    lag_records: int
    lag_seconds: float
    last_commit: int | None
    topics: tuple[TopicStatus, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """All parts; `refused` counts the failed events by part and reason, None if ClickHouse cannot be asked (`problem` says why)."""

    parts: tuple[PartStatus, ...]
    refused: dict[str, dict[str, int]] | None
    problem: str | None = None
    now: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


def status(settings: Settings) -> Status:
    """How every part is doing now. UserError if Kafka does not answer."""
    now = time.time_ns() // 1_000_000
    with Readings(settings, ROLES) as readings:
        parts = tuple(_part(part, readings.processes(part), readings.read(part, consumed(part)), now) for part in ROLES)
    try:
        return Status(parts, _refused(settings), None, now)
    except UserError as error:
        return Status(parts, None, str(error), now)


def _part(part: str, processes: int, readings: list[Reading], now: int) -> PartStatus:
    topics = [
        TopicStatus(topic, sum(reading.records for reading in of_topic), max(reading.seconds(now) for reading in of_topic))
        for topic in consumed(part)
        if (of_topic := [reading for reading in readings if reading.topic == topic])
    ]
    commits = [reading.committed_at for reading in readings if reading.committed_at is not None]
    return PartStatus(
        part,
        processes,
        sum(topic.lag_records for topic in topics),
        max((topic.lag_seconds for topic in topics), default=0.0),
        max(commits, default=None),
        tuple(topics),
    )


def _refused(settings: Settings) -> dict[str, dict[str, int]]:
    rows = clickhouse.connect(settings).execute(
        "SELECT part, reason, count() FROM failed_events GROUP BY part, reason ORDER BY part, reason"
    )
    refused: dict[str, dict[str, int]] = {}
    for part, reason, count in rows:
        refused.setdefault(part, {})[reason] = count
    return refused
