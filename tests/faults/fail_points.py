"""Places where a process is made to fail, planted from outside (planted.py): the product has no switches for it.

The file that the variable `FAULT_MARK` names says whether it has happened: each happens once.
"""

import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.adapters.batching import Batch

MARK = "FAULT_MARK"
PLANTED = "PlantedError"
"""What the log says of a planted exception ..."""
PERSONAL = "planted@secret.example"
"""... and what it must not say."""

Fault = Callable[[], None]


def die() -> None:
    """Kill -9, by ourselves, exactly here."""
    os.kill(os.getpid(), signal.SIGKILL)


def may_stall(mark: Path) -> Path:
    """Who is to stall waits for this file: until all have come into their group, so that nobody has to wait for the one that stalls."""
    return mark.with_name(f"{mark.name} may stall")


def stall(head: Iterable[tuple[str, int, int]]) -> None:
    """As a record on which somebody works until the process is killed. The mark says on what: topic, partition, offset."""
    mark = Path(os.environ[MARK])

    def act() -> None:
        mark.write_text(json.dumps(list(head)))
        time.sleep(600)

    if may_stall(mark).exists():
        once(act)()


def stand_still() -> None:
    """Until somebody sends SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


class PlantedError(Exception):
    """A bug that was planted."""


def fail() -> None:
    """As when somebody's address is not where it should be."""
    try:
        dict[str, str]()[PERSONAL]
    except KeyError as error:
        raise PlantedError(PERSONAL) from error


def once(fault: Fault) -> Fault:
    """The first time that any process with this mark comes here."""

    def act() -> None:
        try:
            Path(os.environ[MARK]).touch(exist_ok=False)
        except FileExistsError:
            return
        fault()

    return act


def plant(owner: Any, name: str, fault: Fault, *, after: bool = False) -> None:
    """Makes `owner.name` do this before (or after) what it does."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def planted(*arguments: Any, **named: Any) -> Any:
        if not after:
            fault()
        answer = function(*arguments, **named)
        if after:
            fault()
        return answer

    setattr(owner, name, planted)


def _record_after_the_insert() -> None:
    """All is in ClickHouse, nothing is committed."""
    from pipeline.record import Recorder

    commit = Recorder._commit

    def planted(self: Recorder) -> None:
        if self._written:
            once(die)()
        commit(self)

    Recorder._commit = planted  # type: ignore[method-assign]


def _record_between_tables() -> None:
    """Some of a batch is in ClickHouse."""
    from pipeline.adapters import event_rows

    plant(event_rows, "insert", once(die), after=True)


def _record_while_settling() -> None:
    """The copies of an event are there, and were passed on; what they say together is not written."""
    from pipeline.adapters import event_copies

    plant(event_copies, "settled_rows", once(die))


def _record_gaining() -> None:
    from pipeline.adapters import deleted

    plant(deleted.Beginnings, "assign", once(die), after=True)


def _fold_after_the_state() -> None:
    """State and outputs are committed, the offsets are not."""
    from pipeline.adapters.changelog import Changelog

    plant(Changelog, "commit", once(die), after=True)


def _record_losing() -> None:
    """What it has read and not committed is somebody else's now."""
    from pipeline.record import Recorder

    plant(Recorder, "_on_lost", once(die))


def _fold_losing() -> None:
    """Batches are under way."""
    from pipeline.adapters.batching import Consumer

    revoked = Consumer.on_partitions_revoked

    async def planted(self: Consumer, partitions: Any) -> None:
        if partitions:
            once(die)()
        await revoked(self, partitions)

    Consumer.on_partitions_revoked = planted  # type: ignore[method-assign, assignment]


def _fold_in_the_transaction() -> None:
    """All of it is at the broker, or on the way; nothing is committed."""
    from pipeline.adapters.changelog import Changelog

    def linger() -> None:
        time.sleep(0.3)
        die()

    plant(Changelog, "_commit_transaction", once(linger))


def _fold_gaining() -> None:
    """Fenced whoever had the partition; its state is not read yet."""
    from pipeline.adapters.changelog import Changelog

    plant(Changelog, "_restore", once(die))


def _route_before_the_ack() -> None:
    """Evidence is with its portal, the offsets are not committed."""
    from pipeline.agents.routing import Routing

    plant(Routing, "_flush", once(die), after=True)


def _fold_stalls() -> None:
    """One partition's next batches; the others go on."""
    from pipeline.agents.folding import Folding

    apply = Folding._apply

    def planted(self: Folding, held: Any, batches: "Sequence[Batch]", *, again: bool = False) -> None:
        stall((batch.topic, batch.partition, batch.offsets[0]) for batch in batches)
        apply(self, held, batches, again=again)

    Folding._apply = planted  # type: ignore[method-assign]


def _record_stalls() -> None:
    """Between the rows and what follows from them; the mark has the last record of each partition."""
    from pipeline.record import Recorder

    settle = Recorder._settle

    def planted(self: Recorder) -> None:
        if self._written:
            stall((self._logical[topic], partition, end - 1) for (topic, partition), end in self._written.items())
        settle(self)

    Recorder._settle = planted  # type: ignore[method-assign]


def _record_stands_still() -> None:
    """All is in ClickHouse, nothing is committed."""
    from pipeline.record import Recorder

    plant(Recorder, "_settle", once(stand_still))


def _fold_stands_still() -> None:
    """In a transaction: state and outputs are with the broker, nothing is committed."""
    from pipeline.adapters.changelog import Changelog

    plant(Changelog, "_commit_transaction", once(stand_still))


def _in_handlers(fault: Fault) -> None:
    """In the handler of each part."""
    from pipeline.agents.folding import Folding
    from pipeline.agents.routing import Routing
    from pipeline.record import Recorder

    for owner, name in ((Folding, "_apply"), (Routing, "_send"), (Recorder, "_insert")):
        plant(owner, name, fault)


def _exception_always() -> None:
    """In a worker, and in all that `run` starts."""
    from pipeline import supervise

    command = supervise._worker_command

    def planted(*arguments: Any) -> tuple[str, ...]:
        python, _, _, *start = command(*arguments)  # python -m pipeline worker ...
        return (python, "-m", "tests.faults.planted", EXCEPTION_ALWAYS, *start)

    vars(supervise)["_worker_command"] = planted
    _in_handlers(fail)


_FOLDS = ("sessionize", "identify")
KILLED_AT: dict[str, dict[str, Fault]] = {
    "before offsets are committed": {"record": _record_after_the_insert, **dict.fromkeys(_FOLDS, _fold_after_the_state)},
    "in the middle of a batch": {"record": _record_between_tables, **dict.fromkeys(_FOLDS, _fold_in_the_transaction)},
    "when partitions come": {"record": _record_gaining, **dict.fromkeys(_FOLDS, _fold_gaining)},
    "while copies are settled, and evidence sent on": {"record": _record_while_settling, "identify": _route_before_the_ack},
}
"""Kill -9 exactly there, by part."""
STALLED: dict[str, Fault] = {"record": _record_stalls, **dict.fromkeys(_FOLDS, _fold_stalls)}
STANDING: dict[str, Fault] = {"record": _record_stands_still, **dict.fromkeys(_FOLDS, _fold_stands_still)}
"""Work is in hand."""
LEAVING = "when partitions go"
KILLED_LOSING: dict[str, Fault] = {"record": _record_losing, **dict.fromkeys(_FOLDS, _fold_losing)}
"""In a rebalance, as above."""
EXCEPTION_ONCE, EXCEPTION_ALWAYS = "exception once", "exception always"

FAIL_POINTS: dict[str, Fault] = {
    **{f"{kind} {place}": planted for place, kinds in KILLED_AT.items() for kind, planted in kinds.items()},
    **{f"{kind} stalls": planted for kind, planted in STALLED.items()},
    **{f"{kind} stands still": planted for kind, planted in STANDING.items()},
    **{f"{kind} {LEAVING}": planted for kind, planted in KILLED_LOSING.items()},
    EXCEPTION_ONCE: lambda: _in_handlers(once(fail)),
    EXCEPTION_ALWAYS: _exception_always,
}
