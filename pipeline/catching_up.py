"""Waiting until everything that was published has arrived in ClickHouse.

What was published before the call is fixed first: the ends of the raw topics. From there it flows in stages, and the ends of
a stage are only known when the one before it has been read:

1. raw topics and dead letters -> `sessionize`, `identify` (which routes evidence to its portal) and `record`;
2. what these pass on: identity-evidence -> `identify`; event-copies, which `record` writes -> `sessionize`;
3. what is derived: sessions, contacts, links, owners, and dead letters again -> `record`.

`record` commits after its rows are visible, so the last stage ends when ClickHouse shows them. Records published later may
pass by meanwhile; nobody waits for them.
"""

import time
from collections.abc import Callable, Iterable

from pipeline.adapters import kafka
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.app import ROLES
from pipeline.errors import UserError
from pipeline.lag import Reading, Readings, consumed
from pipeline.settings import Settings

STAGES: tuple[tuple[str, ...], ...] = (
    (*RAW_TOPICS.values(), "dead-letters"),
    ("identity-evidence", "event-copies"),
    ("sessions", "contacts", "identity-links", "evidence-owners", "dead-letters"),
)
_PAUSE_S = 0.1


def wait(settings: Settings, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> str | None:
    """None once all has arrived; after `seconds`, which parts are behind and by how much. `meanwhile` is called now and then.

    UserError if Kafka does not answer to begin with, or no more at the end; in between it may be away, and we look again.
    """
    deadline = time.monotonic() + seconds
    reached = False
    while True:
        try:
            with Readings(settings, ROLES) as readings:
                reached = True
                return _follow(readings, deadline, meanwhile)
        except kafka.AwayError:
            if not reached or time.monotonic() >= deadline:
                raise


def _follow(readings: Readings, deadline: float, meanwhile: Callable[[], object]) -> str | None:
    """Through all stages: None at their end, or who is behind at the deadline."""
    for topics in STAGES:
        targets = readings.ends(topics)
        behind = [reading for part in ROLES for reading in readings.read(part, _of(part, topics))]
        while behind := [reading for reading in behind if reading.next_offset < targets[reading.topic, reading.partition]]:
            if time.monotonic() >= deadline:
                return _in_words(behind)
            meanwhile()
            time.sleep(_PAUSE_S)
            behind = [reading for part, late in _topics_by_part(behind) for reading in readings.read(part, late)]
    return None


def wait_for_processes(settings: Settings, count: int, seconds: float) -> bool:
    """Whether, within `seconds`, `count` processes of every part are at work."""
    deadline = time.monotonic() + seconds
    with Readings(settings, ROLES) as readings:
        while not _all_at_work(readings, count):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE_S)
    return True


def _all_at_work(readings: Readings, count: int) -> bool:
    try:
        return all(readings.processes(part) == count for part in ROLES)
    except UserError:  # a young broker has no coordinator of groups yet
        return False


def _of(part: str, topics: Iterable[str]) -> list[str]:
    return [topic for topic in consumed(part) if topic in topics]


def _topics_by_part(behind: Iterable[Reading]) -> list[tuple[str, list[str]]]:
    return [
        (part, sorted({reading.topic for reading in behind if reading.part == part}))
        for part in sorted({reading.part for reading in behind})
    ]


def _in_words(behind: Iterable[Reading]) -> str:
    waiting: dict[tuple[str, str], int] = {}
    for reading in behind:
        key = reading.part, reading.topic
        waiting[key] = waiting.get(key, 0) + reading.records
    return "; ".join(f"{part} is {records} records behind in {topic}" for (part, topic), records in waiting.items())
