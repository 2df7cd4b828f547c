"""A site and its collector for all tests with browsers, and the browsers of each.

Needs Chromium and its driver (Debian: `apt-get install chromium chromium-driver`); without them these tests skip and say so.
"""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from infra.servers import Servers
from pipeline.settings import Settings
from tests.edge.browser.driving import CHROMIUM, DRIVER, Browser, World, portals
from tests.edge.browser.site import broken, site
from tests.edge.running import Running, running


@pytest.fixture(scope="session")
def chromium() -> None:
    if not (CHROMIUM and DRIVER):
        pytest.skip("there is no chromium or chromedriver: apt-get install chromium chromium-driver")


@pytest.fixture(scope="session")
def place(chromium: None, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A collector that believes what is said of addresses, since each browser here is at 127.0.0.1."""
    name = {"bootstrap_servers": servers.kafka.bootstrap_servers, "topic_prefix": f"test_{uuid4().hex[:12]}-"}
    settings = Settings.model_validate({"kafka": name, "edge": {"trusted_proxies": "127.0.0.0/8"}})
    edge = Running(settings, tmp_path_factory.mktemp("edge"))
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        broken() as broken_port,
        running(edge.settings, edge.directory, port=edge.port, portals=portals(edge.port, silent.getsockname()[1], broken_port)) as started,
        site(f"http://t.site.localhost:{edge.port}") as port,
    ):
        yield World(started, port)


@pytest.fixture
def world(place: World) -> World:
    """The same place, with addresses of its own for each test."""
    return World(place.edge, place.port, f"v{uuid4().hex[:8]}")


@pytest.fixture
def browsers(chromium: None, tmp_path: Path) -> Iterator[Callable[..., Browser]]:
    """Starts browsers by the name of their profile."""
    started: list[Browser] = []

    def start(profile: str = "a") -> Browser:
        started.append(Browser(tmp_path / profile))
        return started[-1]

    yield start
    for each in started:
        each.quit()


@pytest.fixture
def browser(browsers: Callable[..., Browser]) -> Browser:
    return browsers()


@pytest.fixture
def page(browser: Browser) -> Iterator[Browser]:
    """A browser whose console has nothing of ours at the end."""
    yield browser
    assert said_by_us(browser) == []


def said_by_us(page: Browser) -> list[str]:
    """Errors and warnings in the console, without what the browser says of requests that failed."""
    said = [entry for entry in page.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in said if not any(name in entry["message"] for name in ("favicon", "net::ERR_", "no-page"))]
