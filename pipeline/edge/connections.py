"""HTTP connections that cannot hold memory or a place for ever: bounds on the head of a request, which uvicorn leaves open."""

from asyncio import TimerHandle, Transport
from functools import partial
from typing import Any
from weakref import ref

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_BYTES = 64 * 1024
PATIENCE_S = 10.0
"""How long a client may take to send a head, from the opening of the connection or its first byte on."""

WHOLE = "whole_body"
"""Extension of the ASGI scope: the body was there when the application was called, or soon after, so that nobody need wait for it."""
AT_ONCE = "answer_at_once"
"""Extension of the ASGI scope: its `send` is a function that sends a whole answer as it is, of status, and of headers and body as bytes.

It returns whether it could; where not (the connection ends after this answer, or is behind with reading), `send` is the way.
"""


class Connection(HttpToolsProtocol):
    """Closes a connection whose request's head is too long or too slow; the body's bounds are those of `bodies`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True
        self._head_bytes = 0
        self._waiting: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # TCP gives no other
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:  # nearly always: heads come in one piece
            return
        if self._waiting is None:
            self._wait()
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.scope["extensions"] = {WHOLE: {}, AT_ONCE: {"send": partial(_answer_at_once, ref(self.cycle))}}

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(PATIENCE_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def _answer_at_once(answering: "ref[RequestResponseCycle]", status: bytes, rest: bytes) -> bool:
    """What `cycle.send` does for a start and a body, less the looking at each header: that takes as long as deciding what to answer.

    A weak reference, since the scope, which leads here, is the cycle's own: each request would be garbage that only a collection finds.
    """
    cycle = answering()
    if cycle is None or not cycle.keep_alive or cycle.flow.write_paused or cycle.disconnected or cycle.response_started:
        return False
    cycle.response_started = cycle.response_complete = True
    own = [b"%b: %b\r\n" % header for header in cycle.default_headers]
    cycle.transport.write(b"".join((b"HTTP/1.1 ", status, b"\r\n", *own, rest)))
    cycle.message_event.set()
    cycle.on_response()
    return True
