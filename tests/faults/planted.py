"""A command of the pipeline with something planted in it: `python -m tests.faults.planted BUG worker sessionize`, or a fork by `work`.

A bug (a fault suite that finds nothing proves nothing: it must find each of these), or a fail point (fail_points.py).
"""

import os
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import msgspec

from pipeline import cli
from pipeline.adapters.batching import Batch
from pipeline.adapters.changelog import Changelog, Output
from pipeline.adapters.raw_batch import in_columns
from pipeline.agents import sessionize
from pipeline.agents.decoding import Arrived, arrived
from pipeline.agents.folding import Folding
from pipeline.agents.routing import Routing
from pipeline.core.events import EventId
from pipeline.core.identity import Fold
from pipeline.core.ids import ContactId
from pipeline.history import history
from pipeline.record import Recorder
from tests.faults.fail_points import FAIL_POINTS

_calls = count(1)


def ack_on_exception() -> None:
    """A handler fails now and then, and its batch is acked all the same."""
    settle = Folding.settle

    def careless(self: Folding, batches: Sequence[Batch]) -> bool:
        return True if next(_calls) % 5 == 1 else settle(self, batches)

    Folding.settle = careless  # type: ignore[method-assign]


def commit_before_insert() -> None:
    """`record` commits first, and dies before the insert."""
    write = Recorder._write

    def hasty(self: Recorder) -> None:
        if self._pending.rows and next(_calls) % 2 == 0:
            for place, offset in self._pending.ends().items():
                self._written[place] = offset
            self._commit()
            os._exit(1)
        write(self)

    Recorder._write = hasty  # type: ignore[method-assign]


def a_batch_that_takes_in_the_next() -> None:
    """`record` reads on while it waits for somebody, and takes what it reads then for part of what it has inserted."""
    write = Recorder._write

    def muddled(self: Recorder) -> None:
        write(self)
        self._read(1_000, 0.5)
        self._written |= self._pending.ends()
        self._pending.clear()

    Recorder._write = muddled  # type: ignore[method-assign]


def a_random_session_id() -> None:
    vars(sessionize)["session_id"] = lambda *_: str(uuid4())


def at_least_the_gap() -> None:
    """`>=` for `>`: times are whole milliseconds, so a gap that is one shorter is the same."""
    load = vars(sessionize)["load_policy"]

    def shorter(*arguments: Any) -> Any:
        policy = load(*arguments)
        object.__setattr__(policy.sessions, "gap", policy.sessions.gap - 1)
        return policy

    vars(sessionize)["load_policy"] = shorter


def a_lost_tombstone() -> None:
    """What is gone is not said to be gone."""
    commit = Changelog.commit

    def forgetful(self: Changelog, outputs: Iterable[Output], *rest: Any) -> None:
        commit(self, [output for output in outputs if output.value is not None], *rest)

    Changelog.commit = forgetful  # type: ignore[method-assign, assignment]


def a_lost_block_of_state() -> None:
    """Every other time what a batch changed is not written, and its offsets are: whoever reads the state back lacks it."""
    commit = Changelog.commit

    def forgetful(self: Changelog, outputs: Iterable[Output], changes: Mapping[bytes, bytes | None], *rest: Any) -> None:
        commit(self, outputs, {} if next(_calls) % 2 else changes, *rest)

    Changelog.commit = forgetful  # type: ignore[method-assign, assignment]


def an_ack_before_evidence_is_sent() -> None:
    """The route to the portals acks batches that it has yet to send, and dies three seconds after the first of them."""

    def hasty(self: Routing, batches: Sequence[Batch]) -> bool:
        if next(_calls) == 1:
            threading.Timer(3.0, os._exit, (1,)).start()
        return True

    Routing.settle = hasty  # type: ignore[method-assign]


def no_applied_offsets() -> None:
    """What is delivered again is applied again, to a state that does not look whether it has it."""
    apply = Folding._apply

    def blind(self: Folding, held: Any, batches: Sequence[Batch], *, again: bool = False) -> None:
        known = [(batch, bisect_right(batch.offsets, held.applied.get(batch.topic, -1))) for batch in batches]
        repeated = [
            _renamed(arrived(self._decode, batch.topic, batch.keys[:number], batch.values[:number])) for batch, number in known if number
        ]
        apply(self, held, batches, again=again)
        if repeated:
            effects = held.part.apply(repeated)
            held.changelog.commit(effects.outputs, effects.changes, held.applied, held.topic_ids)
        time.sleep(0.5)  # before the ack: whoever is killed then is given it again

    Folding._apply = blind  # type: ignore[method-assign]


def _renamed(came: Arrived) -> Arrived:
    """The same events under other ids."""
    renamed = [
        (row, msgspec.structs.replace(event, event_id=EventId(str(uuid4()))))
        for batch in came.batches
        for row, event in zip(batch.rows, batch.events(), strict=True)
    ]
    return Arrived(came.keys, list(in_columns(renamed)))


def a_forgotten_retraction() -> None:
    """`sessionize` does not heed it; the others do."""
    vars(history)["retracted_among"] = lambda _: {}


def a_merge_that_moves_nothing() -> None:
    """The contact is said to be merged, and what it owned stays its own."""
    merge = Fold._merge

    def lazy(self: Fold, gone: ContactId, into: ContactId) -> None:
        self._cookies_of.pop(gone, None)
        self._evidence_of.pop(gone, None)
        merge(self, gone, into)

    Fold._merge = lazy  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        ack_on_exception,
        commit_before_insert,
        a_batch_that_takes_in_the_next,
        no_applied_offsets,
        a_random_session_id,
        at_least_the_gap,
        a_lost_tombstone,
        a_lost_block_of_state,
        an_ack_before_evidence_is_sent,
        a_forgotten_retraction,
        a_merge_that_moves_nothing,
    )
}
PLANTS = {**BUGS, **FAIL_POINTS}


def work(planted: str | None, command: Sequence[str], environment: Mapping[str, str], log: Path) -> NoReturn:
    """The whole life of a forked worker, which ends with its parent."""
    os.environ.clear()
    os.environ.update(environment)
    with log.open("ab") as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    if planted is not None:
        PLANTS[planted]()
    cli.end(cli.main([*command, "--parent", str(os.getppid())]))


if __name__ == "__main__":
    PLANTS[sys.argv[1]]()
    cli.end(cli.main(sys.argv[2:]))
