"""What the tracking script costs a page: CPU time of the page's main thread, with the script less without it, in a real browser."""

import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from infra.pages import Pages, served

_PAGE = b"<!doctype html><html lang=en><meta charset=utf-8><title>A page</title>%s<h1>A page</h1><p>Text."
_SCRIPT = b"<script async src=/t.js></script>"
_SETTLED_S = 0.7
"""After the page is loaded: the script has run, and its hit is answered."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Added to the load of a page, median of several: in JavaScript, and in all that the main thread does."""

    script_ms: float
    total_ms: float


def cost(scratch: Path, script: bytes, loads: int) -> Cost | None:
    """None if there is no Chromium, driver or selenium to measure with."""
    try:
        from selenium import webdriver
    except ImportError:
        return None
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={scratch / 'browser'}",
    ):
        options.add_argument(argument)
    with _site(script) as port:
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            return _compared(browser, f"http://127.0.0.1:{port}", loads)
        finally:
            browser.quit()


def _compared(browser: Any, site: str, loads: int) -> Cost:
    """Loads the page with and without the script in turns; the first of each only fills the caches."""
    turns = [(_load(browser, f"{site}/with"), _load(browser, f"{site}/without")) for _ in range(loads + 1)][1:]
    script, total = (
        statistics.median(1e3 * (tracked[name] - plain[name]) for tracked, plain in turns) for name in ("ScriptDuration", "TaskDuration")
    )
    return Cost(script, total)


def _load(browser: Any, url: str) -> dict[str, float]:
    """What a load adds to the counters, in seconds of CPU time. Loaded anew, since only then the process and its counters stay."""
    browser.get(url)
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    before = _counters(browser)
    browser.refresh()
    time.sleep(_SETTLED_S)
    after = _counters(browser)
    browser.execute_cdp_cmd("Performance.disable", {})
    return {name: after[name] - before[name] for name in before}


def _counters(browser: Any) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]}


class _Handler(Pages):
    """Two pages, the script, and a collector that takes everything."""

    protocol_version = "HTTP/1.1"
    answers: ClassVar[dict[str, tuple[str, bytes]]] = {}

    def do_GET(self) -> None:
        kind, body = self.answers.get(self.path, ("text/plain", b""))
        self.answer(body, kind)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(b'{"accepted":1,"refused":[]}', "application/json", 202)


@contextmanager
def _site(script: bytes) -> Iterator[int]:
    """The port of the pages."""
    answers = {
        "/with": ("text/html", _PAGE % _SCRIPT),
        "/without": ("text/html", _PAGE % b""),
        "/t.js": ("text/javascript", script),
    }
    with served(type("Handler", (_Handler,), {"answers": answers})) as port:
        yield port
