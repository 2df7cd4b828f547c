"""Faults of our own processes."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from pipeline import catching_up
from pipeline.app import ROLES
from pipeline.lag import Place, Readings
from tests.faults.fail_points import (
    EXCEPTION_ALWAYS,
    EXCEPTION_ONCE,
    KILLED_AT,
    KILLED_LOSING,
    LEAVING,
    PERSONAL,
    PLANTED,
    STALLED,
    STANDING,
    may_stall,
)
from tests.faults.on_neighbours import CHANGELOGS
from tests.faults.planted import work
from tests.faults.system import HEALED_S, PER_KIND, System, Worker
from tests.processes import Forked
from tests.waiting import until

Fault = Callable[[System], None]


def killed_at_random(system: System) -> None:
    """Kill -9 of each kind at random moments; a supervisor starts it again."""
    for kind in system.rng.sample(ROLES * 3, 3 * len(ROLES)):
        system.pause(0.1, 1.0)
        system.kill_one(kind)


def killed_at(place: str) -> Fault:
    """Kill -9 exactly there, one of each kind."""

    def fault(system: System) -> None:
        system.plant({kind: f"{kind} {place}" for kind in KILLED_AT[place]})

    return fault


def zombies(system: System) -> None:
    """One of each kind stands still with work in hand, beyond its session: the other takes over. Then they wake up.

    Those with a state say that they are fenced; `record` has none, and its group went on without it.
    """
    fenced = _fenced(system)
    stopped = system.planted({kind: f"{kind} stands still" for kind in STANDING})
    with Readings(system.settings, ROLES) as readings:
        system.publish_until(lambda: all(readings.processes(kind) == PER_KIND - 1 for kind in ROLES))
    system.settle()
    for worker in stopped:
        worker.signal(signal.SIGCONT)
    until(lambda: all(_fenced(system)[kind] > fenced[kind] for kind in CHANGELOGS), seconds=60)
    system.pause(1.0, 2.0)
    system.restart_if_dead()  # a zombie that finds out may end, and a supervisor starts it again


def _fenced(system: System) -> Counter[str]:
    """How often a worker of each kind has said that another has opened its partition."""
    said = [line for line in system.log.read_text().splitlines() if "somebody else opened our partition" in line]
    return Counter(kind for line in said for kind in CHANGELOGS if f"app={kind}" in line)


def a_slow_head(system: System) -> None:
    """A batch of a partition is held up while later records of others are done for good; then kill -9 in the middle of it.

    Of what is held up nothing is committed. `record` has one thread: meanwhile others of its kind work.
    """

    def begin() -> None:
        system.all_at_work()
        for worker in system.workers:
            if worker.mark is not None:
                may_stall(worker.mark).touch()

    held_up = system.planted({kind: f"{kind} stalls" for kind in STALLED}, begin)
    heads = {worker: _head(worker) for worker in held_up}
    time.sleep(2)  # what they say of themselves is a second old at most
    before = {worker: _done_meanwhile(system, worker, heads[worker]) for worker in held_up}
    system.publish_until(lambda: all(_done_meanwhile(system, worker, heads[worker]) > before[worker] for worker in held_up))
    with Readings(system.settings, ROLES) as readings:
        for worker, head in heads.items():
            committed = readings.positions(worker.kind, list(head))
            beyond = {place: offset for place, offset in committed.items() if offset > head[place]}
            assert not beyond, f"{worker.kind} has committed {beyond}, and works on {head}"
    for worker in held_up:
        worker.kill()
        system.end(worker)
        system.start(worker.kind, worker.instance)


def _head(worker: Worker) -> dict[Place, int]:
    """What it is held up at: the first offset of each topic and partition."""
    assert worker.mark is not None
    places = json.loads(until(worker.mark.read_text))
    return {(topic, partition): offset for topic, partition, offset in sorted(places, reverse=True)}


def _done_meanwhile(system: System, worker: Worker, head: Collection[Place]) -> int:
    """Grows with every batch that is done for good in other partitions than that; by other workers if this one does nothing at all."""
    if worker.kind == "record":
        return sum(system.said(other, "events") or 0 for other in system.of("record") if other is not worker)
    partitions: dict[str, Any] = system.said(worker, "partitions") or {}
    applied = [(topic, int(number), offset) for number, progress in partitions.items() for topic, offset in progress["applied"].items()]
    return sum(offset for topic, number, offset in applied if (topic, number) not in head)


def an_exception_once(system: System) -> None:
    """The process ends, and is started again."""
    marks = []
    for kind in ROLES:
        worker = system.rng.choice(system.of(kind))
        worker.kill()
        system.end(worker)
        marks.append(system.mark())
        system.start(kind, worker.instance, EXCEPTION_ONCE, marks[-1])
    system.publish_until(lambda: all(mark.exists() for mark in marks))
    ended = [worker for worker in system.workers if worker.planted]
    until(lambda: not any(worker.is_alive() for worker in ended), seconds=30)
    assert {worker.wait(0) for worker in ended} == {1}
    system.restart_if_dead()


def an_exception_always(system: System) -> None:
    """`run` starts the parts again with growing pauses, none of them passes over anything, and mended ones go on."""
    stopped = system.stop(ROLES)
    log = system.directory / f"run-{system.rng.random()}.log"
    log.touch()
    environment = {**os.environ, **system.workers_settings.environment()}
    run = Forked(work, EXCEPTION_ALWAYS, ("run",), environment, log)
    try:
        system.publish_until(lambda: all(len(_pauses(log, kind)) >= 2 for kind in ROLES))
    finally:
        run.signal(signal.SIGTERM)
        assert run.wait(60) == 0
    assert [_pauses(log, kind)[:2] for kind in ROLES] == [[1.0, 2.0]] * len(ROLES)
    assert (PLANTED in log.read_text(), PERSONAL in log.read_text()) == (True, False)
    system.again(stopped)


def _pauses(log: Path, kind: str) -> list[float]:
    """Those of which `run` has said that it makes them before it starts this part again."""
    died = [line for line in log.read_text().splitlines() if "a part died" in line and f"name={kind}-0" in line]
    return [float(line.partition("restart_in_s=")[2].split()[0]) for line in died]


def killed_while_partitions_go(system: System) -> None:
    """A third of each kind comes, to which the others give partitions; one of them dies there."""
    came: list[Worker] = []
    points = {kind: f"{kind} {LEAVING}" for kind in KILLED_LOSING}
    system.plant(points, provoke=lambda: came.extend(system.start(kind) for kind in ROLES))
    system.all_at_work()
    for worker in came:
        worker.signal(signal.SIGTERM)
    for worker in came:
        assert worker.wait(HEALED_S) == 0
        system.end(worker)


def all_killed(system: System) -> None:
    """At once."""
    system.pause(0.5, 2.0)
    for worker in list(system.workers):
        worker.kill()
        system.end(worker)
        system.start(worker.kind, worker.instance)


def all_terminated(system: System) -> None:
    """SIGTERM under load: each finishes what it has in hand and ends within 10 s; the next goes on there."""
    system.all_at_work()
    for worker in list(system.workers):
        system.terminate(worker)
        system.start(worker.kind, worker.instance)


def come_and_go(system: System) -> None:
    """1 -> 2 -> 3 -> 1 of each kind, twice: they go by SIGTERM the first time, by kill -9 the second. Events come all the time."""
    second = {kind: system.of(kind)[1].instance for kind in ROLES}
    system.all_at_work()
    with system.publishing_further():
        _but_one_go(system, system.terminate)
        for leave in (system.terminate, system.lose):
            for count in (2, 3):
                for kind in ROLES:
                    system.start(kind, second[kind] if count == PER_KIND else None)
                _are_at_work(system, count)
            _but_one_go(system, leave)
    for kind in ROLES:
        system.start(kind, second[kind])


def _but_one_go(system: System, leave: Callable[[Worker], None]) -> None:
    for kind in ROLES:
        for worker in system.of(kind)[1:]:
            leave(worker)
    _are_at_work(system, 1)


def _are_at_work(system: System, count: int) -> None:
    published = len(system.ledger)
    assert catching_up.wait_for_processes(system.settings, count, HEALED_S), f"not {count} of each kind"
    until(lambda: len(system.ledger) > published, "nothing was published meanwhile", seconds=HEALED_S)


FAULTS: dict[str, dict[str, Fault]] = {
    "kill -9": {
        "workers are killed": killed_at_random,
        **{f"killed {place}": killed_at(place) for place in KILLED_AT},
        f"killed {LEAVING}": killed_while_partitions_go,
        "all workers are killed": all_killed,
    },
    "slow head": {"a slow record at the head": a_slow_head},
    "exceptions": {"an exception once": an_exception_once, "an exception always": an_exception_always},
    "scaling": {"workers come and go": come_and_go},
    "zombies": {"zombies": zombies},
    "SIGTERM": {"all workers are terminated": all_terminated},
}
