"""Stateful parts: events of a partition are folded into state, which lives in memory and in a changelog.

What arrived for a partition, of all its topics, is applied in one transaction (adapters/changelog.py): state, outputs and the offsets
applied. So whatever ends in the middle, what is redelivered is either masked by the offsets applied or was never there.

| what happens | what we do |
|---|---|
| first batch of a partition | open it: fence whoever had it, read its state back |
| the state is behind what was committed (rereading.py) | read the sources again from there, and say all that follows anew |
| the state is not what we have written | DamagedError: the process ends and says what to do |
| a source is not the topic that the state was computed from | MadeAnewError: the process ends and says what to do |
| the batch was applied before | skip it, ack it |
| Kafka is away | wait inside the commit; nothing is acked |
| the transaction was aborted | open again, do the batch again |
| fenced, and the partition came (back) to us in a later rebalance than the one we opened it in | open again, do the batch again |
| fenced otherwise | we were taken for dead: forget the state, do not ack; the next rebalance says whose it is |
| the partition moves elsewhere | forget the state |
| an exception of ours | it leaves `settle`, and the process ends |
"""

import threading
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import msgspec

from pipeline.adapters.batching import Batch
from pipeline.adapters.changelog import Changelog, FencedError, RetryError, topic_of
from pipeline.agents.decoding import Arrived, Decode, arrived
from pipeline.agents.health import Health
from pipeline.agents.rereading import Sources
from pipeline.agents.stateful import Effects, StatefulPart
from pipeline.logs import logger
from pipeline.settings import Settings

_RETRY_PAUSE_S = 1.0
_AGAIN = b"again"
"""Key of the item that is there while the sources are read again, and until everything that follows has been said."""
_OUTPUTS_AT_ONCE = 10_000
"""So many in a transaction, which must not last."""

log = logger("fold")


@dataclass(frozen=True, slots=True)
class Fold:
    """A stateful part: `part()` makes the state of one partition; changelog `<app>-<table>-changelog`. Sources are logical topics."""

    sources: tuple[str, ...]
    table: str
    part: Callable[[], StatefulPart]


@dataclass(slots=True)
class _Held:
    """A partition that we have opened."""

    changelog: Changelog
    part: StatefulPart
    generation: int
    applied: dict[str, int] = field(default_factory=dict)
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    """Of the sources: where the offsets `applied` are."""


class _Records(NamedTuple):
    """Of one topic, from all batches of a call: read together, since a small batch costs nearly as much as a large one."""

    keys: list[bytes | None]
    values: list[bytes | None]


class Folding:
    """The partitions of one stateful part in one process. Calls for different partitions may come from different threads."""

    def __init__(self, settings: Settings, app: str, fold: Fold, decode: Decode, health: Health) -> None:
        self._settings = settings
        self._app = app
        self._fold = fold
        self._decode = decode
        self._health = health
        self._sources = Sources(settings, app, fold.sources, topic_of(settings, app, fold.table))
        self._held: dict[int, _Held] = {}
        self._lost: dict[int, int] = {}
        """Partitions that we were fenced from, with the generation in which we were."""
        self._locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    def lane(self, batch: Batch) -> int:
        """Partitions have nothing in common."""
        return batch.partition

    def settle(self, batches: Sequence[Batch]) -> bool:
        """Applies batches of one partition for good: True. False if the partition is not ours any more, and nothing was done."""
        last = batches[-1]
        with self._locks[last.partition]:
            while self._lost.get(last.partition) != last.generation:
                try:
                    held = self._held.get(last.partition) or self._open(last)
                    self._apply(held, batches)
                    return True
                except RetryError as error:
                    self._drop(last.partition)
                    log.warning("doing a batch again", app=self._app, partition=last.partition, error=str(error))
                    time.sleep(_RETRY_PAUSE_S)
                except FencedError:
                    self._fenced(last)
            return False

    def keep(self, partitions: AbstractSet[int]) -> None:
        """Forgets all partitions but these: the others were given to somebody else."""
        for partition in list(self._held):
            if partition not in partitions:
                with self._locks[partition]:
                    self._drop(partition)

    def _open(self, batch: Batch) -> _Held:
        started = time.monotonic()
        changelog = Changelog(self._settings, self._app, self._fold.table, batch.partition)
        held = _Held(changelog, self._fold.part(), batch.generation)
        self._held[batch.partition] = held
        held.applied, items, before = changelog.open()
        held.topic_ids = self._sources.same(before)
        again = items.pop(_AGAIN, None) is not None
        with changelog.understood():
            held.part.restore(items)
        for missed in self._sources.missed(batch.partition, held.applied, batch.generation, again=again):
            again = True
            self._apply(held, missed, again=True)
        if again:
            self._say_everything(held)
        log.info("opened", app=self._app, partition=batch.partition, items=len(items), seconds=round(time.monotonic() - started, 2))
        return held

    def _say_everything(self, held: _Held) -> None:
        """Readers may know what the state that was lost had said, which may be neither here nor in what has changed since."""
        outputs = held.part.everything()
        while some := list(islice(outputs, _OUTPUTS_AT_ONCE)):
            held.changelog.commit(some, {_AGAIN: b"1"}, held.applied, held.topic_ids)
        held.changelog.commit([], {_AGAIN: None}, held.applied, held.topic_ids)

    def _apply(self, held: _Held, batches: Sequence[Batch], *, again: bool = False) -> None:
        applied = dict(held.applied)
        unapplied: defaultdict[str, _Records] = defaultdict(lambda: _Records([], []))
        for batch in batches:
            known = bisect_right(batch.offsets, applied.get(batch.topic, -1))
            unapplied[batch.topic].keys.extend(batch.keys[known:])
            unapplied[batch.topic].values.extend(batch.values[known:])
            applied[batch.topic] = max(batch.offsets[-1], applied.get(batch.topic, -1))
        total, fresh = sum(map(len, batches)), sum(len(records.keys) for records in unapplied.values())
        if fresh < total:
            held.topic_ids = self._sources.same(held.topic_ids)  # before they are passed over: a topic made anew begins at 0, too
        new = [arrived(self._decode, topic, *records) for topic, records in unapplied.items()]
        events = sum(map(len, new))
        late = 0
        if applied != held.applied:
            effects = self._effects(held, new, again=again)
            changes = effects.changes | {_AGAIN: b"1"} if again else effects.changes
            held.changelog.commit(effects.outputs, changes, applied, held.topic_ids)
            held.applied = applied
            late = effects.late
        self._health.add(events=events, refused=fresh - events, late=late, replayed=total - fresh)
        for batch in batches:
            self._health.committed(batch.partition, batch.topic, batch.offsets[-1])

    def _effects(self, held: _Held, new: Sequence[Arrived], *, again: bool) -> Effects:
        if not any(map(len, new)):
            return Effects([], {})  # all refused: still, this is how far we have come
        try:
            return held.part.apply(new, again=again)
        except msgspec.DecodeError:  # of state: records are decoded before
            with held.changelog.understood():
                raise

    def _fenced(self, batch: Batch) -> None:
        held = self._held[batch.partition]
        self._drop(batch.partition)
        if held.generation >= batch.generation:
            self._lost[batch.partition] = batch.generation
        generations = {"opened_in": held.generation, "now": batch.generation}
        log.warning("somebody else opened our partition", app=self._app, partition=batch.partition, **generations)

    def _drop(self, partition: int) -> None:
        if (held := self._held.pop(partition, None)) is not None:  # else a call for it has dropped it meanwhile
            held.changelog.close()
            self._health.dropped(partition)
