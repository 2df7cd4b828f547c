"""HTTP connections: bounds on the head of a request, which uvicorn leaves open, and a short way for requests that are there in one piece.

uvicorn makes a scope, a cycle and a task for each request. Where a request comes whole, as hits do, it is offered to a function first
that may take it as it is; only what it leaves goes uvicorn's way, as if nothing had been.
"""

from asyncio import TimerHandle, Transport
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar

from httptools import HttpParserError
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from pipeline.edge.asked import Told

HEAD_BYTES = 64 * 1024
MOST_HEADERS = 100
MOST_WAITING = 100
"""Requests of a connection that may wait for the answers of those before them; browsers send one after the other."""
PATIENCE_S = 10.0
"""How long a client may take to send a head, from the opening of the connection or its first byte on."""


class Connection(HttpToolsProtocol):
    """Closes a connection whose requests' heads are too long, too slow or too many; the body's bounds are those of `bodies`.

    `take` is offered each POST that came in one piece on a connection that stays. It returns whether it answers it, now or later.
    """

    def __init__(self, take: "Take", **options: Any) -> None:
        super().__init__(**options)
        self._take = take
        self._in_head = True
        self._head_bytes = 0
        self._waiting: TimerHandle | None = None
        self._held: list[bytes] | None = None
        """The body so far of a request that may be taken; None if there is none."""
        self._stated: list[tuple[bytes, bytes]] = []
        """uvicorn's default headers, of which `_default_head` was made."""
        self._default_head = b""
        self._idle_since: float | None = None
        """When the last answer was sent, in the loop's time; None while there is something to do, which a lone end of a line is not."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # TCP gives no other
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super()._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._held is not None and not self.transport.is_closing():
            try:
                self._leave(self._held)  # the rest of the body comes later, or never
            except HttpParserError:  # as uvicorn says it where it parses: without what was asked for
                self.send_400_response("Invalid HTTP request received.")
        if len(self.headers or ()) > MOST_HEADERS:  # of a head that goes on, or after a body
            self.transport.close()
        if not self._in_head:  # nearly always: heads come in one piece
            return
        if self._waiting is None:
            self._wait()
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes, self._idle_since = True, 0, None
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        self._in_head, self._idle_since = False, None  # an answer to the request before may have come meanwhile
        self._stop_waiting()
        if len(self.headers) > MOST_HEADERS or len(self.pipeline) >= MOST_WAITING:
            raise ValueError("too many headers or requests")  # the parser stops; uvicorn answers 400 and closes
        if self._may_be_taken():
            self._held = []
        else:
            self._leave([])

    def on_body(self, body: bytes) -> None:
        if self._held is None:
            super().on_body(body)
        else:
            self._held.append(body)

    def on_message_complete(self) -> None:
        if self._held is None:
            super().on_message_complete()
            return
        held, self._held = self._held, None
        request = Whole(self, held[0] if len(held) == 1 else b"".join(held))
        before, self.cycle = self.cycle, request  # type: ignore[assignment]  # it has all of a cycle that uvicorn asks for
        if not self._take(request):
            self.cycle = before
            self._leave(held)
            super().on_message_complete()

    def _may_be_taken(self) -> bool:
        return (
            self.parser.get_method() == b"POST"
            and not self._is_answering()
            and not self.flow.write_paused  # whoever does not read its answers gets no more of them
            and self.parser.should_keep_alive()
            and not self.expect_100_continue
            and not self.parser.should_upgrade()
            and self.parser.get_http_version() == "1.1"
        )

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _leave(self, body: list[bytes]) -> None:
        """To uvicorn: a head, and what there is of the body."""
        self._held = None
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()
        for some in body:
            super().on_body(some)

    def default_head(self) -> bytes:
        """Uvicorn's default headers as they go over the wire; it makes new ones each second."""
        stated = self.server_state.default_headers
        if stated is not self._stated:
            self._stated = stated
            self._default_head = b"".join([b"%b: %b\r\n" % header for header in stated])
        return self._default_head

    def on_response_complete(self) -> None:
        """As uvicorn's, but that a timer stays: making one for each answer, and taking it back with the next request, costs more."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return  # until the next answer
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            super().timeout_keep_alive_handler()
        else:
            self._look_again(left_s)

    def _look_again(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        """Nothing: uvicorn calls it for any byte, but only a request's first one ends a connection's idleness."""

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(PATIENCE_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class _NobodyWaits:
    """Where uvicorn's cycles have an event."""

    def set(self) -> None:
        """Nothing."""


class Whole:
    """A request that came in one piece. Until it is answered it stands where uvicorn has the cycle of the one that it is at."""

    __slots__ = ("_connection", "body", "disconnected", "keep_alive", "response_complete", "told")

    message_event: ClassVar = _NobodyWaits()

    def __init__(self, connection: Connection, body: bytes) -> None:
        self._connection = connection
        self.body = body
        self.told = Told(connection.headers)
        self.keep_alive = True
        self.response_complete = False
        self.disconnected = False

    @property
    def url(self) -> bytes:
        """As it was asked for: path and query."""
        return self._connection.url

    @property
    def peer(self) -> str:
        """The address of whoever is connected."""
        client = self._connection.client
        return client[0] if client else ""

    def answer(self, status: bytes, rest: bytes) -> None:
        """Sends `202 Accepted`, and the further headers (each with its line's end), an empty line and the body. A second answer is none."""
        if self.response_complete:
            return
        connection = self._connection
        self.response_complete = True
        transport = connection.transport
        if self.disconnected or transport.is_closing():
            return
        if self.keep_alive:
            transport.write(b"HTTP/1.1 %b\r\n%b%b" % (status, connection.default_head(), rest))
        else:
            transport.write(b"HTTP/1.1 %b\r\nconnection: close\r\n%b%b" % (status, connection.default_head(), rest))
            transport.close()
        connection.on_response_complete()

    def respond(self, response: Response) -> None:
        """Sends Starlette's answer."""
        lines = b"".join([b"%b: %b\r\n" % header for header in response.raw_headers])
        status = HTTPStatus(response.status_code)
        self.answer(f"{status.value} {status.phrase}".encode(), b"%b\r\n%b" % (lines, bytes(response.body)))


Take = Callable[[Whole], bool]
