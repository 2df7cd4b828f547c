"""A toy part, `count`: how often each key came. And a toy route, `sort`: each apple under its own value, if that is short.

An event is a record's value: `poison` is a bug of the part, `late:...` comes too late, `refused:...` is no event.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from pipeline import logs
from pipeline.adapters.changelog import Output
from pipeline.agents.decoding import Arrived
from pipeline.agents.harness import Fold, Route, Timings, part
from pipeline.agents.stateful import Effects
from pipeline.agents.worker import run_worker
from pipeline.settings import Settings

SOURCES = ("apples", "pears")
TOTALS = "totals"
CHANGELOG = "count-keys-changelog"


@dataclass(frozen=True)
class ToyColumns:
    rows: list[int]
    values: list[bytes]

    def events(self) -> list[bytes]:
        return self.values


@dataclass(frozen=True)
class ToyDecoded:
    batches: list[ToyColumns]
    refused: list[tuple[int, Any]] = field(default_factory=list)


def decode(values: Sequence[bytes | None], topic: str) -> Any:
    """Every value is an event, but for tombstones and `refused:...`."""
    good = [(row, value) for row, value in enumerate(values) if value and not value.startswith(b"refused:")]
    return ToyDecoded([ToyColumns([row for row, _ in good], [value for _, value in good])])


class Counts:
    """How often each value came, in one partition. An event takes `pause_s` seconds."""

    pause_s: ClassVar[float] = 0

    def __init__(self) -> None:
        self.counts: Counter[bytes] = Counter()

    def restore(self, items: Mapping[bytes, bytes]) -> None:
        self.counts.update({key: int(value) for key, value in items.items()})

    def apply(self, arrived: Sequence[Arrived], /, *, again: bool = False) -> Effects:
        events: list[Any] = [event for each in arrived for event in each.events()]
        if b"poison" in events:
            raise ValueError("the part has a bug")
        time.sleep(self.pause_s * len(events))
        self.counts.update(events)
        changes: dict[bytes, bytes | None] = {key: str(self.counts[key]).encode() for key in set(events)}
        late = sum(event.startswith(b"late:") for event in events)
        return Effects([Output(TOTALS, key, value) for key, value in changes.items()], changes, late)

    def everything(self) -> Iterator[Output]:
        return (Output(TOTALS, key, str(count).encode()) for key, count in self.counts.items())


def sorting_key(event: Any) -> bytes | None:
    return None if event.startswith(b"late:") else event[:100]


STEPS: dict[str, Fold | Route] = {"count": Fold(SOURCES, "keys", Counts), "sort": Route(("apples",), "sorted", sorting_key)}


def work(settings: Settings, name: str, session_s: float, pause_s: float, log: Path) -> NoReturn:
    """The whole life of a worker process, whose output goes to the end of `log`."""
    with log.open("ab") as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    logs.configure(settings.log)
    Counts.pause_s = pause_s
    timings = Timings(session=session_s, heartbeat=0.4, commit=0.2)
    sys.exit(run_worker(part(settings, name, STEPS[name], decode=decode, timings=timings)))
