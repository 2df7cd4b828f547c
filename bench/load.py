"""A client that is no limit: keep-alive connections with one request under way on each; of an answer it reads status and length.

At most: a connection asks again as soon as it has its answer. At a rate: requests fall due evenly, and an answer takes from then,
not from when a connection became free, so that a server that stands still is seen by all who would have asked meanwhile.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

import uvloop

from pipeline.errors import UserError

_PATIENCE_S = 20.0
"""After the time is over, for the last answer."""
_ACCEPT_S = 0.3
"""For the server to accept all connections: one that is busy takes one at a time, and the last would wait for seconds."""
_TICK_S = 0.001
_HEAD = re.compile(
    rb"HTTP/1\.1 ([0-9]{3})[^\r]*\r\n(?:(?!content-length:)[^\r]*\r\n)*?(?:content-length: ([0-9]+)\r\n|\r\n)", re.IGNORECASE
)
_GOOD = frozenset({b"202", b"204"})


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back: from the first request to the last answer; the time of each, in seconds; our own share of a core."""

    seconds: float
    took: list[float]
    client: float


class Asked(NamedTuple):
    """Requests without end, and what an answer holds that accepts one of them."""

    requests: Iterator[bytes]
    accepted: bytes


def ask(port: int, asked: Asked, connections: int, seconds: float, rate: float | None = None) -> Answers:
    """Asks for some seconds, as fast as the answers come or at this rate a second. UserError if an answer is no acceptance, or missing."""
    cpu = time.process_time()
    load = _Load(asked, rate, seconds)
    uvloop.run(load.run(port, connections))
    return Answers(load.took_s, load.took, (time.process_time() - cpu) / load.took_s)


@dataclass(slots=True)
class _Load:
    asked: Asked
    rate: float | None
    seconds: float
    took: list[float] = field(default_factory=list)
    took_s: float = 0.0
    _began: float = 0.0
    _asked: int = 0
    _due: deque[float] = field(default_factory=deque)
    _idle: deque["_Connection"] = field(default_factory=deque)
    _over: asyncio.Future[None] | None = None

    async def run(self, port: int, connections: int) -> None:
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        opened = [(await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port))[1] for _ in range(connections)]
        await asyncio.sleep(_ACCEPT_S)
        self._began = time.perf_counter()
        try:
            for connection in opened:
                self.free(connection)
            if self.rate is not None:
                await self._tick(self.rate)
            await asyncio.wait_for(self._over, self.seconds + _PATIENCE_S)
        except TimeoutError:
            raise UserError(f"{self._asked - len(self.took)} requests to port {port} have no answer after {_PATIENCE_S:g} s") from None
        finally:
            for connection in opened:
                connection.close()

    def free(self, connection: "_Connection") -> None:
        """A connection has nothing under way."""
        now = time.perf_counter()
        if self.rate is None and now - self._began < self.seconds:
            self._ask(connection, now)
        elif self._due:
            self._ask(connection, self._due.popleft())
        else:
            self._idle.append(connection)
            self._end(now)

    def answered(self, took: float, connection: "_Connection") -> None:
        self.took.append(took)
        self.free(connection)

    def failed(self, error: str) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_exception(UserError(error))

    def _ask(self, connection: "_Connection", since: float) -> None:
        self._asked += 1
        connection.ask(next(self.asked.requests), since)

    async def _tick(self, rate: float) -> None:
        """Asks what has fallen due; what finds no idle connection waits."""
        passed, fell = 0.0, 0
        while passed < self.seconds:
            await asyncio.sleep(_TICK_S)
            passed = min(time.perf_counter() - self._began, self.seconds)
            due = ceil(passed * rate)  # the first at once, so that there is one however slow the rate
            self._due.extend(self._began + number / rate for number in range(fell, due))
            fell = due
            while self._due and self._idle:
                self._ask(self._idle.popleft(), self._due.popleft())
        self.rate = None
        self._end(time.perf_counter())

    def _end(self, now: float) -> None:
        """Over when the time is, and all that was asked is answered."""
        over = self.rate is None and now - self._began >= self.seconds and not self._due and len(self.took) == self._asked
        if over and self._over is not None and not self._over.done():
            self.took_s = now - self._began
            self._over.set_result(None)


class _Connection(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self._load = load
        self._received = b""
        self._since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP gives no other
        self._transport = transport

    def ask(self, request: bytes, since: float) -> None:
        self._since = since
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_ends = self._received.find(b"\r\n\r\n")
        if head_ends < 0:
            return
        head = _HEAD.match(self._received)
        if head is not None and len(self._received) < head_ends + 4 + int(head[2] or 0):
            return
        if head is None or head[1] not in _GOOD or self._load.asked.accepted not in self._received or self._since is None:
            self._load.failed(f"an answer that is no acceptance: {self._received[:300]!r}")
            return
        took, self._since, self._received = time.perf_counter() - self._since, None, b""
        self._load.answered(took, self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._since is not None:
            self._load.failed("a server closed a connection that had no answer yet")

    def close(self) -> None:
        self._since = None
        self._transport.close()
