"""Units of work in processes, as many at a time as the machine has cores. They die with the process that began it all, even by kill -9."""

import atexit
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from queue import Empty
from typing import Any, NamedTuple

from pipeline import bugs, logs
from pipeline.bulk.workspace import Plan
from pipeline.errors import UserError
from pipeline.logs import logger
from pipeline.settings import Settings
from pipeline.supervise import die_with

Report = Callable[[int, int], None]
"""Hears of a number of messages, and of bytes, that have been worked on."""

_LOOK_S = 0.2

log = logger("rebuild")


class Unit(NamedTuple):
    """A piece of work that is done again as a whole if it does not come to its end: `work(plan, *arguments)`, whose result is JSON."""

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


class Crew:
    """Does units. One result each, by name, those of earlier attempts included."""

    def __init__(self, plan: Plan, pool: ProcessPoolExecutor, reports: Any, heard: Report) -> None:
        self._plan = plan
        self._pool = pool
        self._reports = reports
        self._heard = heard

    def do(self, stage: str, units: Sequence[Unit]) -> dict[str, Any]:
        """Returns when all are finished. Whatever one of them raises is raised here, after the others that had begun.

        UserError if one of the processes was killed.
        """
        began = time.monotonic()
        results = {unit.name: self._plan.result(unit.name) for unit in units if self._plan.is_finished(unit.name)}
        running = {self._pool.submit(_work, self._plan, unit): unit for unit in units if unit.name not in results}
        try:
            while running:
                done, _ = wait(running, timeout=_LOOK_S, return_when="FIRST_COMPLETED")
                self._listen()
                for future in done:
                    unit = running.pop(future)
                    self._plan.finish(unit.name, future.result())
                    results[unit.name] = self._plan.result(unit.name)
        except BrokenProcessPool:
            raise UserError(
                f"a process of the rebuild was ended from outside during the stage {stage!r}: most often by the system, for want of memory "
                "(its log says so). Nothing is lost: begun again, it goes on where it was."
            ) from None
        except BaseException:
            self._pool.shutdown(cancel_futures=True)
            raise
        log.info(stage, units=len(units), seconds=round(time.monotonic() - began, 2))
        return results

    def _listen(self) -> None:
        while True:
            try:
                self._heard(*self._reports.get_nowait())
            except Empty:
                return


@contextmanager
def crew(plan: Plan, heard: Report) -> Iterator[Crew]:
    """`heard` is called in this process."""
    os.environ.setdefault("POLARS_MAX_THREADS", "1")  # heard when polars is imported; the processes are the threads
    context = get_context("spawn")  # a fork would share the connections of librdkafka's threads
    reports = context.Queue()
    begin = (plan.settings, os.getpid(), reports)
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=context, initializer=_begin, initargs=begin) as pool:
        yield Crew(plan, pool, reports, heard)


_told: Any = None


def _begin(settings: Settings, parent: int, reports: Any) -> None:
    global _told  # noqa: PLW0603 - a process of the pool has no other place for it
    die_with(parent)
    atexit.register(os._exit, 0)  # nothing is left to be put away, and taking the libraries down takes a second
    bugs.keep_quiet()
    logs.configure(settings.log)
    gc.disable()  # hundred thousands of short-lived tuples and no cycles
    _told = reports


def _work(plan: Plan, unit: Unit) -> Any:
    """The unit's result. Where a bug is, this process says: what it raises loses its places on the way to the other."""
    try:
        return unit.work(plan, *unit.arguments)
    except UserError:
        raise
    except BaseException as error:
        log.critical("an exception in a unit of work: this is a bug", unit=unit.name, exc_info=error)
        raise


def report(messages: int, size: int) -> None:
    """Tells the process that began the rebuild. For units of work."""
    if _told is not None:
        _told.put((messages, size))
