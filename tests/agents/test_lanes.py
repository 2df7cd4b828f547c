"""Lanes: together where that saves work, side by side where they may be, in order where they must be."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest
from polars.exceptions import PanicException

from pipeline.adapters.batching import Batch
from pipeline.agents import lanes as module
from pipeline.agents.lanes import Lanes


@dataclass
class Event:
    """As much of a Faust event as lanes look at."""

    value: Batch


@dataclass
class Slow:
    """Work that waits in each call until it may go on; `boom` as a value is a bug."""

    bug: type[BaseException] = ValueError
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    calls: list[tuple[int, list[int]]] = field(default_factory=list)
    """Partition and first offsets of the batches of each call, in the order in which calls began."""

    def lane(self, batch: Batch) -> int:
        return batch.partition

    def settle(self, batches: Sequence[Batch]) -> bool:
        self.calls.append((batches[0].partition, [batch.offsets[0] for batch in batches]))
        assert self.go.acquire(timeout=10)
        if any(b"boom" in batch.values for batch in batches):
            raise self.bug("a bug")
        return True


def event(offset: int, partition: int = 0, records: int = 1, value: bytes = b"v") -> Event:
    offsets = list(range(offset, offset + records))
    return Event(Batch("apples", partition, offsets, [None] * records, [value] * records, 0, 1))


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    monkeypatch.setattr(module, "PACE", 0)


def played(work: Slow, play: Callable[[Lanes], Awaitable[None]], most_waiting: int = 100) -> tuple[list[list[int]], list[BaseException]]:
    """First offsets of what was done together, in that order, and what failed."""
    done: list[list[int]] = []
    failed: list[BaseException] = []

    async def main() -> None:
        lanes = Lanes(work, most_waiting, lambda events, _: done.append([one.value.offsets[0] for one in events]), failed.append)
        await play(lanes)
        for _ in range(100):
            work.go.release()
        for _ in range(500):
            if not lanes._tasks:
                return
            await asyncio.sleep(0.01)

    asyncio.run(main())
    return done, failed


async def begun(work: Slow, calls: int) -> None:
    for _ in range(500):
        if len(work.calls) >= calls:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not {calls} calls but {work.calls}")


def test_what_arrives_during_a_call_is_the_next_call_in_order() -> None:
    work = Slow()

    async def play(lanes: Lanes) -> None:
        await lanes.put(event(0))
        await begun(work, 1)
        for offset in (1, 2, 3):
            await lanes.put(event(offset))

    assert played(work, play) == ([[0], [1, 2, 3]], [])
    assert work.calls == [(0, [0]), (0, [1, 2, 3])]


def test_lanes_are_worked_on_at_the_same_time() -> None:
    work = Slow()

    async def play(lanes: Lanes) -> None:
        for partition in range(module.THREADS):
            await lanes.put(event(0, partition))
        await begun(work, module.THREADS)

    done, _ = played(work, play)
    assert len(done) == module.THREADS


def test_nobody_reads_on_while_too_much_waits() -> None:
    """The second batch may wait, the third not before there is room."""
    work = Slow()

    async def play(lanes: Lanes) -> None:
        await lanes.put(event(0, records=50))
        await begun(work, 1)
        await lanes.put(event(50, records=60))
        third = asyncio.create_task(lanes.put(event(110, records=60)))
        await asyncio.sleep(0.1)
        assert not third.done()
        work.go.release()
        await asyncio.wait_for(third, 5)

    assert played(work, play, most_waiting=100) == ([[0], [50, 110]], [])


@pytest.mark.parametrize("kind", [ValueError, PanicException])
def test_a_bug_is_told_and_nothing_of_it_is_done(kind: type[BaseException]) -> None:
    """A panic of polars is no Exception, and a bug all the same."""
    work = Slow(bug=kind)

    async def play(lanes: Lanes) -> None:
        await lanes.put(event(0, value=b"boom"))
        await begun(work, 1)

    done, (failure,) = played(work, play)
    assert (done, type(failure), str(failure)) == ([], kind, "a bug")


def test_calls_for_a_lane_begin_apart_but_the_first_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that many small batches become few transactions."""
    monkeypatch.setattr(module, "PAUSE_S", 3.0)
    work = Slow()

    async def play(lanes: Lanes) -> None:
        for _ in range(10):
            work.go.release()
        for offset in range(5):
            await lanes.put(event(offset))
            await asyncio.sleep(0.02)

    assert played(work, play) == ([[0], [1, 2, 3, 4]], [])


def test_after_a_long_call_more_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one call takes in says how much the next should be worth."""
    monkeypatch.setattr(module, "PACE", 20)
    monkeypatch.setattr(module, "LONGEST_S", 3.0)
    work = Slow()

    async def play(lanes: Lanes) -> None:
        await lanes.put(event(0))
        await asyncio.sleep(0.2)
        for _ in range(10):
            work.go.release()
        for offset in (1, 2):
            await lanes.put(event(offset))
            await asyncio.sleep(0.05)

    assert played(work, play) == ([[0], [1, 2]], [])


def test_a_pause_ends_when_enough_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the reader would be held up by a pause: at most `most_waiting` records, and then nothing until it is over."""
    monkeypatch.setattr(module, "PAUSE_S", 60.0)
    work = Slow()

    async def play(lanes: Lanes) -> None:
        for _ in range(10):
            work.go.release()
        await lanes.put(event(0))
        await begun(work, 1)
        await lanes.put(event(1, records=30))
        await asyncio.sleep(0.1)
        assert len(work.calls) == 1
        await lanes.put(event(31, records=30))
        await begun(work, 2)

    assert played(work, play, most_waiting=100) == ([[0], [1, 31]], [])
