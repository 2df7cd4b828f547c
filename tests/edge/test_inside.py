"""A collector in this process: which way a request goes, what a bug costs, and that any ASGI server will do."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount
from uvicorn import Config
from uvicorn.server import ServerState

from pipeline import logs
from pipeline.adapters import topics
from pipeline.core.events import PageView
from pipeline.edge import metrics, portals
from pipeline.edge.asked import Told
from pipeline.edge.clicks import Clicks
from pipeline.edge.collector import Collector
from pipeline.edge.connections import Connection
from pipeline.edge.delivery import Delivery
from pipeline.edge.short_way import ShortWay
from pipeline.edge.spool import Spool
from pipeline.settings import Log, Settings
from tests.builders import page_view, utk
from tests.edge.deciding import YES
from tests.edge.requesting import hits, request
from tests.edge.running import ASKING, ORIGIN, PERSON, PORTALS, SECRETS, SITE, events
from tests.edge.test_connections import Transport


def written(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The portals file, and the secrets that it refers to."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (directory / "portals.toml").write_text(PORTALS)


async def collecting(settings: Settings, directory: Path, play: Callable[[Collector], Awaitable[None]]) -> None:
    """A collector in this process, while something is played with it."""
    topics.create_topics(settings)
    delivery = Delivery(settings, Spool(directory / "spool", 1 << 20))
    collector = Collector(portals.load(directory / "portals.toml"), delivery, Clicks(directory / "clicks.sqlite"))
    delivery.start()
    await play(collector)
    await delivery.stop()
    collector.clicks.close()


LONG_WAY = 418
"""Where a request goes that is left to the routes."""


async def statuses(collector: Collector, requests: Sequence[bytes]) -> list[int]:
    """Of the answers to requests on one connection, one after the other."""
    config = Config(Response(status_code=LONG_WAY), ws="none", access_log=False)
    connection = Connection(ShortWay(collector).take, config=config, server_state=ServerState(), app_state={})
    transport = Transport()
    connection.connection_made(transport)  # type: ignore[arg-type]
    for number, whole in enumerate(requests):
        connection.data_received(whole)
        async with asyncio.timeout(60):
            while len(transport.statuses) <= number:  # noqa: ASYNC110 - a transport tells nobody what is written to it
                await asyncio.sleep(0.01)
    connection.connection_lost(None)
    return transport.statuses


def test_usual_hits_take_it(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of them needs a route: one hit or several, with consent where it is asked for, through a browser that has cookies."""
    written(tmp_path, monkeypatch)
    person = {**PERSON, "Cookie": f"hubspotutk={utk('a')}; other=1", "Content-Type": "text/plain;charset=UTF-8", "Accept": "*/*"}
    usual = [
        request(hits()),
        request(hits(20), headers=person),
        request(hits(consent=YES), ASKING, person),
        request(hits(title="A", referrer="https://search.example/?q=a", hstc=f"1.{utk('a')}.1.1.1.1", hssc="1.1.1", properties={"a": 1})),
        request(hits(url=f"{ORIGIN}/a?token=1#b", new_browser_session=True, properties={}), headers=person),
    ]
    told: list[int] = []

    async def play(collector: Collector) -> None:
        told.extend(await statuses(collector, [*usual, request(hits(colour="red"))]))

    asyncio.run(collecting(settings, tmp_path, play))
    assert told == [202] * len(usual) + [LONG_WAY]
    assert len(events(settings)) == 24


def test_a_bug_in_an_answer_costs_that_answer(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers are made in callbacks of Kafka's client, where an exception would end the process. Its values are not logged."""
    logs.configure(Log())
    written(tmp_path, monkeypatch)
    told: list[int] = []
    right = metrics.accepted

    def wrong(*_: object) -> None:
        monkeypatch.setattr(metrics, "accepted", right)
        raise ValueError("canary")

    def bug(_: int) -> None:
        raise KeyError("canary")

    async def play(collector: Collector) -> None:
        monkeypatch.setattr(metrics, "accepted", wrong)
        told.extend(await statuses(collector, [request(hits()), request(hits())]))
        event = page_view(1, utk="a")
        collector.delivery.hand_over([event], bug)
        await collector.delivery.accept([event])

    asyncio.run(collecting(settings, tmp_path, play))
    assert told == [500, 202]
    logged = "".join(capsys.readouterr())
    assert ("ValueError" in logged, "KeyError" in logged, "canary" in logged) == (True, True, False)


def test_mounted_in_another_application_it_is_not_needed(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any ASGI server will do; then hits go the long way alone."""
    written(tmp_path, monkeypatch)
    sent: list[dict[str, Any]] = []

    async def play(collector: Collector) -> None:
        app = Starlette(routes=[Mount("/tracking", app=collector.app())])
        body = json.dumps(hits()).encode()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": f"/tracking/e/{SITE}",
            "raw_path": b"",
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in PERSON.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)

    asyncio.run(collecting(settings, tmp_path, play))
    assert (sent[0]["status"], json.loads(sent[1]["body"])) == (202, {"accepted": 1, "refused": []})
    assert [type(event) for event in events(settings)] == [PageView]


def test_a_bug_is_an_answer_that_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A 500 as on the long way; an exception would come to the HTTP parser, which would call the request malformed."""

    class Broken:
        def get(self, _: object) -> None:
            raise ValueError("canary")

    class Request:
        told, url, response = Told([]), b"/e/7", Response()

        def respond(self, response: Response) -> None:
            self.response = response

    logs.configure(Log())
    broken, asked = Collector(Broken(), None, None), Request()  # type: ignore[arg-type]
    assert ShortWay(broken).take(asked)  # type: ignore[arg-type]
    assert (asked.response.status_code, bytes(asked.response.body)) == (500, b'{"error":"internal"}')
    logged = "".join(capsys.readouterr())
    assert "ValueError" in logged
    assert "canary" not in logged
