"""HTTP connections that cannot hold memory or a place for ever: bounds on the head of a request, which uvicorn leaves open."""

from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024
PATIENCE_S = 10.0
"""How long a client may take to send a head, from the opening of the connection or its first byte on."""

WHOLE = "whole_body"
"""Extension of the ASGI scope: the body was there when the application was called, or soon after, so that nobody need wait for it."""


class Connection(HttpToolsProtocol):
    """Closes a connection whose request's head is too long or too slow; the body's bounds are those of `bodies`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True
        self._head_bytes = 0
        self._waiting: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
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
        self.scope["extensions"] = {WHOLE: {}}

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(PATIENCE_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
