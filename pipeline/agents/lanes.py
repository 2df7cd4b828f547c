"""Batches on their way through a part: side by side where they may be, together where that saves work, in order where they must be.

Each batch belongs to a lane (a partition). While one call works on a lane, what arrives for it waits, and the next call takes all
of it at once: a part that falls behind has larger transactions and so catches up, and a topic with little traffic rides along
with a busy one. Lanes run in a few threads, so that one computes while another waits for Kafka.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

from pipeline.adapters.batching import Batch

THREADS = 3
PAUSE_S = 0.25
"""The calls for a lane begin at least so far apart. One that comes after a quiet time begins at once; many small ones would cost more
than their work: each is a transaction."""
PACE = 4
"""Under load it is so many times as long as the last call took ..."""
LONGEST_S = 1.0
"""... up to this."""


class Work(Protocol):
    """What is done to batches. Any exception ends the process."""

    def lane(self, batch: Batch) -> int:
        """Batches of different lanes may be worked on at the same time."""

    def settle(self, batches: Sequence[Batch]) -> bool:
        """Works on batches of one lane, in order. True when they are done for good, False if they are not ours to do."""


Done = Callable[[Sequence[Any], bool], None]
"""Hears which Faust events were settled together, and what `settle` said."""


class Lanes:
    """The lanes of one `Work`. All methods belong to the event loop; `settle` runs in threads."""

    def __init__(self, work: Work, most_waiting: int, done: Done, failed: Callable[[BaseException], object]) -> None:
        self._work = work
        self._most_waiting = most_waiting
        self._done = done
        self._failed = failed
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="lane")
        self._waiting: defaultdict[int, list[Any]] = defaultdict(list)
        self._records_waiting = 0
        self._enough = asyncio.Event()
        """Half of `most_waiting` waits: no pause is worth holding up the reader."""
        self._tasks: dict[int, Awaitable[None]] = {}
        self._due: dict[int, float] = {}
        """When the next call for each lane may begin, in the loop's time."""
        self._moved = asyncio.Event()

    async def put(self, event: Any) -> None:
        """Takes a Faust event whose value is a batch. Returns when at most `most_waiting` records wait: a slow part slows its reader."""
        lane = self._work.lane(event.value)
        self._waiting[lane].append(event)
        self._count(len(event.value))
        if lane not in self._tasks:
            self._tasks[lane] = asyncio.create_task(self._run(lane))
        while self._records_waiting > self._most_waiting:
            self._moved.clear()
            await self._moved.wait()

    def _count(self, more: int) -> None:
        self._records_waiting += more
        if self._records_waiting > self._most_waiting // 2:
            self._enough.set()
        else:
            self._enough.clear()

    async def _pause(self, seconds: float) -> None:
        """Lets more arrive, until enough has."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), seconds)

    async def _run(self, lane: int) -> None:
        """Settles what waits in the lane until nothing does."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting[lane]:
                await self._pause(self._due.get(lane, 0.0) - loop.time())
                began = loop.time()
                events = self._waiting.pop(lane)
                batches = [event.value for event in events]
                self._count(-sum(map(len, batches)))
                self._moved.set()
                done = await loop.run_in_executor(self._threads, self._work.settle, batches)
                self._due[lane] = began + max(PAUSE_S, min(PACE * (loop.time() - began), LONGEST_S))
                self._done(events, done)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # whatever it is, a panic of polars, say: nothing may be acked after it
            self._failed(error)
        finally:
            del self._tasks[lane]
