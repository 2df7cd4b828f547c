"""From an empty generation to one that has come to where the raw topics ended.

`rebuild(settings, policy, until, progress, start)` is all that `replay start` asks for. `settings` lead to the generation, whose topics
and tables exist; `until` and `start` are offsets of the raw topics (a place that `start` does not name begins at its first record);
`progress` is called now and then with the raw records done, and their bytes (0 if nobody counts these). Afterwards the groups of the
generation's parts have committed offsets of `until` or later, and state, topics and tables are those that the parts would have come to:
they go on from there. It may be begun again after a kill at any moment.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from confluent_kafka import TopicPartition

from pipeline import catching_up
from pipeline.adapters import kafka
from pipeline.app import ROLES
from pipeline.core.policy import Policy
from pipeline.errors import UserError
from pipeline.lag import Place, Readings, consumed
from pipeline.settings import Settings
from pipeline.supervise import Supervisor, workers

Progress = Callable[[int, int], None]

_LOOK_EVERY_S = 1.0
_COMMIT_S = 30.0
_RETENTION_MS = 1000 * 365 * 86_400_000
_FOREVER_S = 10 * 365 * 86_400.0


def rebuild(
    settings: Settings,
    policy: Policy,  # noqa: ARG001 - the parts read it from settings.policy_file
    until: Mapping[Place, int],
    progress: Progress,
    start: Mapping[Place, int] = MappingProxyType({}),
) -> None:
    """By the generation's own parts, which read the log as they read all that comes; they end when they have come to its end.

    They forget no cookie meanwhile: they read topics side by side at whatever pace, and what once came too late is set right.
    """
    _begin_at(settings, start)
    log = settings.data_dir.absolute() / "generations" / f"{settings.database}.log"
    with _parts(_forgetting_nothing(settings), log) as are_alive:
        look = _Look(settings, until, start, progress)

        def meanwhile() -> None:
            if not are_alive():
                raise UserError(f"the parts of generation {settings.generation} cannot run; what they say is in {log}")
            look()

        while catching_up.wait(settings, _FOREVER_S, meanwhile):
            pass


def _forgetting_nothing(settings: Settings) -> Settings:
    return settings.model_copy(update={"sessions": settings.sessions.model_copy(update={"retention": _RETENTION_MS})})


class _Look:
    """Tells how far the parts have come, at most once a second."""

    def __init__(self, settings: Settings, until: Mapping[Place, int], begin: Mapping[Place, int], progress: Progress) -> None:
        self._settings = settings
        self._until = until
        self._begin = begin
        self._progress = progress
        self._next_at = 0.0

    def __call__(self) -> None:
        if time.monotonic() < self._next_at:
            return
        with Readings(self._settings, ROLES) as readings:
            self._progress(self._done(readings), 0)
        self._next_at = time.monotonic() + _LOOK_EVERY_S

    def _done(self, readings: Readings) -> int:
        """Raw records, each counted in so far as the parts that read it have done so."""
        shares: dict[Place, list[int]] = {place: [] for place in self._until}
        for part in ROLES:
            for place, offset in readings.positions(part, [place for place in self._until if place[0] in consumed(part)]).items():
                begin = self._begin.get(place, 0)
                shares[place].append(min(max(offset - begin, 0), self._until[place] - begin))
        return int(sum(sum(done) / len(done) for done in shares.values() if done))


@contextmanager
def _parts(settings: Settings, log: Path) -> Iterator[Callable[[], bool]]:
    """A process of each part for as long as the block lasts; gives whether they can run."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        supervisor = Supervisor(workers(ROLES, 1, settings), settings.environment(), output=output)
        running = threading.Thread(target=supervisor.run, daemon=True)
        running.start()
        try:
            yield running.is_alive
        finally:
            supervisor.stop()
            running.join()


def _begin_at(settings: Settings, begin: Mapping[Place, int]) -> None:
    """Has each part begin at these offsets where it has not been yet."""
    with Readings(settings, ROLES) as readings:
        for part in ROLES:
            places = [place for place in begin if place[0] in consumed(part)]
            been = readings.positions(part, places)
            fresh = {place: begin[place] for place in places if place not in been}
            if fresh:
                _commit(settings, part, fresh)


def _commit(settings: Settings, part: str, offsets: Mapping[Place, int]) -> None:
    consumer = kafka.consumer(settings, part, **{"socket.timeout.ms": int(_COMMIT_S * 1000)})
    named = [TopicPartition(kafka.topic_name(settings, topic), partition, offset) for (topic, partition), offset in offsets.items()]
    try:
        consumer.commit(offsets=named, asynchronous=False)
    finally:
        consumer.close()
