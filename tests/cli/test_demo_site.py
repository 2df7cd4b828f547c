"""`demo-site` as its user has it: a process, a browser, a terminal, and Ctrl-C. One runs for all tests here; the last one ends it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from selenium.webdriver.common.by import By

from infra.demo_site.places import WAYS
from infra.processes import Identity, identity
from pipeline.edge.core.consent import Mode
from tests.edge.browser.driving import CHROMIUM, DRIVER, Browser
from tests.edge.running import PERSON
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
HOST, PORTAL = "off.site.localhost", 5
COOKIE = "e698e92a9b5bbbe43071861fe1fc853a"


class Demo:
    """A running `demo-site` and what it has printed."""

    def __init__(self, directory: Path) -> None:
        self._printed = directory / "printed"
        with self._printed.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", "demo-site"],
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=output,
            )

    @property
    def printed(self) -> str:
        return self._printed.read_text(encoding="utf-8")

    @property
    def pages(self) -> str:
        """The port of the site's pages."""
        return self.shows(rf"http://{re.escape(HOST)}:(\d+)/ ")[1]

    def shows(self, pattern: str) -> re.Match[str]:
        """What it has printed by the time that this is in it."""

        def found() -> re.Match[str] | None:
            assert self.process.poll() is None, self.printed
            return re.search(pattern, self.printed)

        match = until(found, f"{pattern} is shown", 240)
        assert isinstance(match, re.Match)
        return match


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    running = Demo(tmp_path_factory.mktemp("demo"))
    yield running
    if running.process.poll() is None:
        running.process.kill()  # everything it started dies with it


def descendants(pid: int) -> list[Identity]:
    """The processes that it started, and those that these started."""
    parents = {int(path.parent.name): _parent(path) for path in Path("/proc").glob("[0-9]*/stat")}
    found, new = set[int](), {pid}
    while new := {child for child, parent in parents.items() if parent in new} - found:
        found |= new
    return [identity(each) for each in found]


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


@pytest.mark.timeout(600)
def test_a_visitor_of_the_site_is_seen_in_the_terminal(demo: Demo) -> None:
    """A page is nobody's until a form says whose; a mail's link is its reader's."""
    pages = demo.pages
    collector = demo.shows(r"The collector is http://t\.site\.localhost:(\d+)\.")[1]
    demo.shows(r"bob@mail\.example, off\.site\.localhost\n.* was imported")
    see, post = _page(pages), f"http://127.0.0.1:{collector}"
    person = PERSON | {"Origin": f"http://{HOST}:{pages}"}

    assert f'src="http://t.site.localhost:{collector}/t/{PORTAL}.js"' in see(HOST, "/blends")
    assert f'action="http://t.site.localhost:{collector}/forms/{PORTAL}/order"' in see("off.shop.localhost", "/order")
    view = {"type": "page_view", "event_id": "0b6e2f0c-6a53-4a0e-9d5c-2f4f3c1d7a10", "utk": COOKIE, "title": "Blends"}
    answer = requests.post(f"{post}/e/{PORTAL}", json=view | {"url": f"http://{HOST}:{pages}/blends"}, headers=person, timeout=30)
    assert answer.json() == {"accepted": 1, "refused": []}
    demo.shows(rf"nobody yet \(cookie {COOKIE[:8]}\), {HOST}\n.*session 1 +viewed 'Blends' +{HOST}/blends")

    form: Any = {"fields": [{"name": "email", "value": "ann@example.com"}], "context": {"hutk": COOKIE}}
    assert requests.post(f"{post}/forms/{PORTAL}/order", json=form, headers=person, timeout=30).status_code == 202
    demo.shows(rf"ann@example\.com, {HOST}\n(.*\n)*?.*viewed 'Blends' .*the cookie is theirs")
    demo.shows(r"sent form order as ann@example\.com .*the form made the contact")

    link = re.findall(rf"http://t\.site\.localhost:{collector}(/l/[^\"]+)", see("mail.localhost", "/"))[-1]
    followed = requests.get(post + link, headers=PERSON, timeout=30, allow_redirects=False)
    assert followed.headers["Location"].startswith(f"http://off.shop.localhost:{pages}/?_hsc=")
    demo.shows(r"clicked a link in mail spring to bob@mail\.example .*their mail")


@pytest.fixture
def browsers(tmp_path: Path) -> Iterator[Callable[[str], Browser]]:
    """Starts browsers, each with a profile of its own."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("there is no chromium or chromedriver: apt-get install chromium chromium-driver")
    with ExitStack() as put_away:

        def start(profile: str) -> Browser:
            browser = Browser(tmp_path / profile)
            put_away.callback(browser.quit)
            return browser

        yield start


@pytest.mark.timeout(600)
def test_the_timeline_grows_with_every_click_in_a_browser(demo: Demo, browsers: Callable[[str], Browser]) -> None:
    """A yes, a page and a form on the site that asks first; then somebody else follows a link in the inbox, and touches the page."""
    site = "www.site.localhost"
    ann = browsers("ann")
    ann.get(f"http://{site}:{demo.pages}/")
    ann.banner("Accept")
    demo.shows(rf"nobody yet \(no cookie: only the page is known\), {site}\n")
    ann.find_element(By.LINK_TEXT, "Blends").click()
    until(lambda: "hubspotutk" in ann.cookies(), "the visitor has a cookie")
    utk = ann.cookies()["hubspotutk"]
    demo.shows(rf"nobody yet \(cookie {utk[:8]}\), {site}\n(.*\n)*?.*viewed 'Blends' +{site}/blends +the cookie is nobody's yet")
    ann.find_element(By.LINK_TEXT, "Write to us").click()
    ann.find_element(By.NAME, "email").send_keys("ann@browser.example")
    ann.find_element(By.CSS_SELECTOR, "main button").click()
    demo.shows(rf"ann@browser\.example, {site}\n(.*\n)*?.*viewed 'Blends' +{site}/blends +the cookie is theirs")
    demo.shows(r"sent form contact as ann@browser\.example .*the form made the contact")

    bob = browsers("bob")
    bob.get(f"http://mail.localhost:{demo.pages}/")
    bob.find_element(By.XPATH, "//article[h2/code='off']//a[.='Our new blends']").click()
    demo.shows(rf"clicked a link in mail spring to bob@mail\.example +{HOST}/blends")
    bob.settles()
    bob.touch()
    demo.shows(rf"bob@mail\.example, {HOST}\n(.*\n)*?.*viewed 'Blends' +{HOST}/blends +the cookie is theirs")


@pytest.mark.timeout(600)
def test_every_way_to_ask_is_there_to_try(demo: Demo, browsers: Callable[[str], Browser]) -> None:
    """Each on two hosts: whether there is a banner, whether there is a cookie before and after a yes, and the pages on the terminal."""
    browser = browsers("tries")
    for way in WAYS:
        for host, path, heading in ((way.site, "/blends", "Blends"), (way.shop, "/order", "Your order")):
            browser.get(f"http://{host}:{demo.pages}/")
            browser.settles()
            asks_first = way.mode in (Mode.OPT_IN, Mode.OPT_IN_CATEGORIES)
            assert ("hubspotutk" in browser.cookies()) == (not asks_first), way
            if way.mode is not Mode.OFF:
                until(lambda: browser.find_elements(By.ID, "__hsbanner"), f"{way.mode} has a banner")
            else:
                assert not browser.find_elements(By.ID, "__hsbanner")
            browser.execute_script("_hsq.push(['setConsent', true])")
            browser.get(f"http://{host}:{demo.pages}{path}")
            browser.settles()
            assert "hubspotutk" in browser.cookies()
            demo.shows(rf"viewed '{heading}' +{re.escape(host)}{path}")


@pytest.mark.timeout(300)
def test_ctrl_c_leaves_no_process(demo: Demo) -> None:
    """Neither servers, parts nor the collector."""
    demo.shows("Ctrl-C stops everything")
    started = descendants(demo.process.pid)
    assert len(started) >= 7, "two servers, the supervisor, three parts, the collector"
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(60) == 0, demo.printed
    until(lambda: not any(each.is_running() for each in started), "nothing of it runs any more")


def _page(port: str) -> Callable[[str, str], str]:
    """What a browser gets of a page, however this machine resolves names."""

    def see(host: str, path: str) -> str:
        answer = requests.get(f"http://127.0.0.1:{port}{path}", headers={"Host": f"{host}:{port}"}, timeout=30)
        assert answer.status_code == 200
        return answer.text

    return see
