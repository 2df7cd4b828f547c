"""Where a rebuild keeps what it has between its stages, on disk: so memory does not grow with the log, and kill -9 costs one unit of work.

    DIRECTORY/plan.json            what is rebuilt, up to where; a rebuild that goes on must be the same
    DIRECTORY/NAME.done            a unit of work that is finished, with its result
    DIRECTORY/spill/...            rows on their way from one stage to the next (spill.py)

Units are idempotent: what a unit had done when it was killed is done again, and is the same.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.adapters import kafka
from pipeline.adapters.contracts import RAW_TOPICS, load_topics
from pipeline.alone import alone
from pipeline.core.policy import Policy
from pipeline.errors import UserError
from pipeline.settings import Settings

Place = tuple[str, int]
"""Topic (logical name) and partition."""

BUCKET_ROWS = 30_000
"""About so many records of cookies are in memory at once, for each process."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to rebuild: for each partition the first record and the one after the last."""

    settings: Settings
    policy: Policy
    start: Mapping[Place, int]
    until: Mapping[Place, int]
    directory: Path

    def records(self, place: Place) -> int:
        """How many records there are at most."""
        return max(self.until.get(place, 0) - self.start.get(place, 0), 0)

    @property
    def total(self) -> int:
        return sum(map(self.records, self.until))

    def buckets(self, partition: int) -> int:
        """Into how many parts the cookies of a partition are divided."""
        return 1 + sum(self.records((topic, partition)) for topic in RAW_TOPICS.values()) // BUCKET_ROWS

    def spill(self, name: str) -> Path:
        return self.directory / "spill" / name

    def is_finished(self, unit: str) -> bool:
        return self._marker(unit).exists()

    def result(self, unit: str) -> Any:
        """What a finished unit gave."""
        return json.loads(self._marker(unit).read_text())

    def finish(self, unit: str, result: Any) -> None:
        """For good: a unit is finished, or it is not."""
        _write(self._marker(unit), json.dumps(result))

    def _marker(self, unit: str) -> Path:
        return self.directory / f"{unit}.done"


@contextmanager
def opened(settings: Settings, policy: Policy, start: Mapping[Place, int], until: Mapping[Place, int]) -> Iterator[Plan]:
    """The plan, new or gone on with. When the block ends well, only the marks of what is finished are left on disk (`forget`).

    UserError if another process is at it, or if something else was begun here.
    """
    directory = _directory(settings)
    directory.mkdir(parents=True, exist_ok=True)
    plan = Plan(settings, policy, dict(start), dict(until), directory.resolve())
    with alone(directory / "lock", f"{directory}: another process rebuilds this at the moment. Wait for it, or end it."):
        _same(directory / "plan.json", _described(plan))
        yield plan
        shutil.rmtree(directory / "spill", ignore_errors=True)


def forget(settings: Settings) -> None:
    """Removes what a rebuild has left on disk: once nobody will ask for it again, or all that it made is dropped."""
    shutil.rmtree(_directory(settings), ignore_errors=True)


def _directory(settings: Settings) -> Path:
    return settings.data_dir / "rebuild" / re.sub("[^a-zA-Z0-9._-]", "-", kafka.topic_name(settings, "sessions"))


def check_places(start: Mapping[Place, int], until: Mapping[Place, int]) -> None:
    """UserError if one of these is no partition of a raw topic."""
    for topic, partition in (*start, *until):
        if topic not in RAW_TOPICS.values() or not 0 <= partition < load_topics()[topic].partitions:
            raise UserError(f"{topic}[{partition}] is no partition of a raw topic: expected one of {', '.join(RAW_TOPICS.values())}")


def _same(file: Path, described: str) -> None:
    if not file.exists():
        _write(file, described)
    elif file.read_text() != described:
        raise UserError(
            f"{file.parent}: a rebuild with other ends, another policy or another version was begun here. "
            f"Drop what it has made (topics and database), remove this directory, and begin again."
        )


def _described(plan: Plan) -> str:
    offsets = {
        name: {f"{topic}:{partition}": offset for (topic, partition), offset in sorted(places.items())}
        for name, places in (("start", plan.start), ("until", plan.until))
    }
    versions = {"polars": pl.__version__, "bucket_rows": BUCKET_ROWS}  # a cookie's bucket follows from both
    return json.dumps(offsets | versions | {"policy": asdict(plan.policy), "database": plan.settings.clickhouse.database}, indent=1)


def _write(file: Path, text: str) -> None:
    """All of it, or nothing."""
    new = file.with_suffix(f"{file.suffix}.{os.getpid()}.new")
    with new.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    new.replace(file)
