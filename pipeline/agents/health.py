"""What a part says about itself while it runs: one small JSON file, `{data_dir}/parts/<part>-<instance>.json`.

Replaced atomically at most once a second, so a reader always sees a whole record. Times are epoch milliseconds. Lag is not
in it: that is the broker's to tell (the group's committed offsets).
"""

import json
import os
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.logs import logger
from pipeline.settings import Settings

_COUNTING = threading.Lock()

log = logger("health")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Progress:
    """One partition."""

    last_commit_at: int | None = None
    applied: dict[str, int] = field(default_factory=dict)
    """Last offset worked on, of each source topic."""


@dataclass(slots=True)
class Health:
    """Counts since the process started. A batch that comes again after a crash counts in `replayed` only."""

    part: str
    instance: str
    pid: int = field(default_factory=os.getpid)
    started_at: int = field(default_factory=now_ms)
    updated_at: int = 0
    events: int = 0
    batches: int = 0
    refused: int = 0
    """Records that are no events; `record` puts them among the dead letters."""
    late: int = 0
    """Events that came after the retention of sessions."""
    replayed: int = 0
    """Records that had been applied before."""
    last_commit_at: int | None = None
    partitions: dict[int, Progress] = field(default_factory=dict)

    def add(self, *, events: int = 0, refused: int = 0, late: int = 0, replayed: int = 0) -> None:
        """Counts; threads may count at the same time."""
        with _COUNTING:
            self.events += events
            self.refused += refused
            self.late += late
            self.replayed += replayed

    def committed(self, partition: int, topic: str, offset: int) -> None:
        """A batch of `topic` is worked on for good, up to `offset`."""
        with _COUNTING:
            progress = self.partitions.setdefault(partition, Progress())
            self.last_commit_at = progress.last_commit_at = now_ms()
            progress.applied[topic] = offset
            self.batches += 1

    def dropped(self, partition: int) -> None:
        """The partition is not ours any more."""
        with _COUNTING:
            self.partitions.pop(partition, None)


class HealthFile:
    """Writes a part's health where `status` looks for it."""

    def __init__(self, settings: Settings, part: str) -> None:
        instance = settings.worker.instance or str(os.getpid())
        self.health = Health(part, instance)
        self._complained = False
        self.path = directory(settings) / f"{part}{settings.suffix}-{instance}.json"

    def write(self) -> None:
        """A disk that is full, say, keeps nobody from working: the log says so once."""
        try:
            self._write()
        except OSError as error:
            if not self._complained:
                log.warning("cannot write how this part is; `status` does not see it", error=str(error))
            self._complained = True
        else:
            self._complained = False

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.health.updated_at = now_ms()
        fresh = self.path.with_suffix(".new")
        with _COUNTING:
            said = asdict(self.health)
        fresh.write_text(json.dumps(said))
        fresh.replace(self.path)

    def remove(self) -> None:
        """At a clean end: whoever reads a file of a dead process knows that it died."""
        self.path.unlink(missing_ok=True)


def directory(settings: Settings) -> Path:
    """Where the parts' files are."""
    return settings.data_dir / "parts"
