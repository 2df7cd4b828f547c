"""A connection's own rules: what is offered to the short way, and what becomes of a head that nobody understands."""

import asyncio
import socket
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from pipeline.edge.connections import Connection, Whole
from tests.edge.requesting import request, view
from tests.edge.running import Running
from tests.waiting import until


class Transport:
    """Where a connection writes; nobody reads it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    @property
    def statuses(self) -> list[int]:
        return [int(written.split()[1]) for written in self.written if written.startswith(b"HTTP/")]

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing."""

    pause_reading = resume_reading = close

    def get_extra_info(self, _: str) -> Any:
        return None


def test_whoever_does_not_read_answers_gets_no_more_of_them() -> None:
    """What is written faster than it is read would fill the memory: such a request is left to uvicorn, which waits."""

    async def play() -> tuple[int, int]:
        taken: list[Whole] = []
        left: list[Any] = []

        def take(whole: Whole) -> bool:
            taken.append(whole)
            whole.answer(b"204 No Content", b"\r\n")
            return True

        async def app(scope: Any, _receive: Any, _send: Any) -> None:
            left.append(scope)

        connection = Connection(take, config=Config(app, ws="none"), server_state=ServerState(), app_state={})
        connection.connection_made(Transport())  # type: ignore[arg-type]
        connection.data_received(request(view()))
        connection.pause_writing()
        connection.data_received(request(view()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        connection.connection_lost(None)
        return len(taken), len(left)

    assert asyncio.run(play()) == (1, 1)


def test_an_address_that_is_none_is_refused_and_not_logged(edge: Running) -> None:
    """Also where the head comes before its body."""
    with socket.create_connection(("127.0.0.1", edge.port), timeout=30) as connection:
        connection.sendall(b"POST http://x:99999/e/7?mail=canary@x.io HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 400 ")
    until(edge.answers, "it goes on")
    assert "canary" not in edge.log
