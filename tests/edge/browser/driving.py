"""A browser, the site that it visits, and what the collector made of the visit."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any
from uuid import uuid4

import msgspec
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from pipeline.core.events import NOT_COMPARED, CustomEvent, EmailClick, Event, FormSubmission, Millis, PageView, PortalId
from pipeline.edge.core import links
from tests.edge.running import KEY, Running, events
from tests.waiting import until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OFF, OPT_IN, CATEGORIES, OPT_OUT, TWO_HOSTS, NO_HOST, NOTIFY = 1, 2, 3, 4, 5, 6, 7
ASKING_TWO_HOSTS, SILENT_HOST, ASKING_SILENT_HOST, OTHER_RULES, NO_BANNER, BROKEN_HOST, ASKING_BROKEN_HOST = range(8, 15)
MODES = {
    OFF: "off",
    OPT_IN: "opt_in",
    CATEGORIES: "opt_in_categories",
    OPT_OUT: "opt_out",
    TWO_HOSTS: "off",
    NO_HOST: "off",
    NOTIFY: "notify",
    ASKING_TWO_HOSTS: "opt_in",
    SILENT_HOST: "off",
    ASKING_SILENT_HOST: "opt_in",
    OTHER_RULES: "opt_out",
    NO_BANNER: "opt_in",
    BROKEN_HOST: "off",
    ASKING_BROKEN_HOST: "opt_in",
}
SETTINGS = {
    OTHER_RULES: """bind_on = "visible"
all_forms = true
consent.honour_gpc = false
consent.honour_dnt = false
consent.texts = { de = { title = "Kekse" }, fr = { title = "Biscuits", accept = "Oui" } }""",
    NO_BANNER: "consent.banner = false",
}
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"
MINUTE = 60_000
DEAD = "http://t.site.localhost:1"


def portals(port: int, silent_port: int = 1, broken_port: int = 1) -> str:
    """The portals file. At `silent_port` somebody listens who never answers, at `broken_port` one whose answer is always 503."""
    lives, silent, broken = (f"http://t.site.localhost:{at}" for at in (port, silent_port, broken_port))
    hosts = {NO_HOST: [DEAD]} | {portal: [DEAD, lives] for portal in (TWO_HOSTS, ASKING_TWO_HOSTS)}
    hosts |= {portal: [silent, lives] for portal in (SILENT_HOST, ASKING_SILENT_HOST)}
    hosts |= {portal: [broken, lives] for portal in (BROKEN_HOST, ASKING_BROKEN_HOST)}
    return "\n".join(
        f'[[portals]]\nid = {portal}\ndomains = ["site.localhost", "shop.localhost"]\n'
        f'hosts = {hosts.get(portal, [])}\nkeys = ["env:EDGE_KEY"]\n'
        f'consent.mode = "{mode}"\nthank_you = "http://www.site.localhost/thanks"\n{SETTINGS.get(portal, "")}\n'
        for portal, mode in MODES.items()
    ).replace("'", '"')


def compared(event: Event) -> dict[str, Any]:
    """The fields in which copies of an event must agree (docs/spec/events.md)."""
    return {name: value for name, value in msgspec.structs.asdict(event).items() if name not in NOT_COMPARED}


@dataclass
class World:
    """A site, a collector on the same domain, and what a browser did there."""

    edge: Running
    port: int
    visit: str = ""
    began: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    def url(self, portal: int, page: str = "plain", query: str = "") -> str:
        return f"http://www.site.localhost:{self.port}/{portal}/{self.visit}/{page}{query}"

    def shop(self, portal: int, page: str) -> str:
        """The same page on the portal's other domain."""
        return self.url(portal, page).replace("www.site", "www.shop")

    def tracked(self, portal: int = OFF, page: str = "scrolled", host: str = "t.site.localhost") -> str:
        """The address in a mail to Ann that was sent a minute ago."""
        sent = Millis(time.time_ns() // 1_000_000 - MINUTE)
        told = links.Link("ann@x.io", self.visit, self.url(portal, page, "?a=1"), sent, Millis(sent + 60 * MINUTE))
        token = links.sealed_link([bytes.fromhex(KEY)], PortalId(portal), told, uuid4().bytes[:12])
        return f"http://{host}:{self.edge.port}/l/{token}"

    def events(self) -> list[Event]:
        """Each once, except clicks. A page that is left sends again what has no answer yet; such copies agree in all that is compared."""
        found = events(self.edge.settings)
        once = {event.event_id: event for event in found}
        for event in found:
            if not isinstance(event, EmailClick):
                assert compared(event) == compared(once[event.event_id])
        return [event for event in found if isinstance(event, EmailClick) or once[event.event_id] is event]

    def copies(self) -> list[PageView]:
        """Of this visit's pages, as often as they were sent."""
        return [event for event in events(self.edge.settings) if isinstance(event, PageView) and self.visit in event.url]

    def views(self) -> list[PageView]:
        """Of this visit's pages, in the order of their time."""
        mine = [event for event in self.events() if isinstance(event, PageView) and self.visit in event.url]
        return sorted(mine, key=lambda view: view.occurred_at)

    def has_views(self, count: int) -> list[PageView]:
        """All of this visit's, as soon as there are so many."""
        found: list[PageView] = until(
            lambda: views if len(views := self.views()) >= count else None, f"{count} page views:\n{self.edge.log}"
        )
        assert len(found) == count
        return found

    def forms(self) -> list[FormSubmission]:
        found = [event for event in self.events() if isinstance(event, FormSubmission)]
        return [form for form in found if form.page_url and self.visit in form.page_url]

    def clicks(self) -> list[EmailClick]:
        return [event for event in self.events() if isinstance(event, EmailClick) and event.send_id == self.visit]

    def answers(self, utk: str | None) -> list[CustomEvent]:
        """To the banner, by a cookie."""
        return [event for event in self.events() if isinstance(event, CustomEvent) and event.name == "consent" and event.utk == utk]

    def refusals(self) -> list[CustomEvent]:
        """Answers by nobody since this visit began: nobody else is there meanwhile."""
        return [answer for answer in self.answers(None) if (answer.received_at or 0) >= self.began]

    @contextmanager
    def silent(self) -> Iterator[None]:
        """The collector stands still: what is sent to it meanwhile is on its way until the block ends."""
        self.edge.send(SIGSTOP)
        try:
            yield
        finally:
            self.edge.send(SIGCONT)


class Browser(webdriver.Chrome):
    """Chromium with a profile of its own, which a restart keeps."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        assert CHROMIUM is not None
        options.binary_location = CHROMIUM
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-agent={AGENT}"):
            options.add_argument(argument)
        options.add_argument(f"--user-data-dir={profile}")
        options.accept_insecure_certs = True  # those of tests/tls.py
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        super().__init__(options=options, service=webdriver.ChromeService(DRIVER))
        self.set_page_load_timeout(60)

    def cookies(self) -> dict[str, str]:
        return {cookie["name"]: cookie["value"] for cookie in self.get_cookies()}

    def lives(self) -> dict[str, int | None]:
        """How many more minutes each cookie lives, None for a session of the browser."""
        left = {cookie["name"]: cookie.get("expiry") for cookie in self.get_cookies()}
        return {name: None if until is None else round((until - time.time()) / 60) for name, until in left.items()}

    def touch(self) -> None:
        """What only a person does."""
        self.find_element(By.TAG_NAME, "body").send_keys(Keys.SHIFT)

    def banner(self, button: str) -> None:
        """Answers the banner by the text of a button."""
        until(lambda: self.find_elements(By.ID, "__hsbanner"), "the banner is there")
        root = self.find_element(By.ID, "__hsbanner").shadow_root
        next(each for each in root.find_elements(By.CSS_SELECTOR, "button") if each.text == button).click()

    def has_sent(self) -> None:
        until(lambda: self.execute_script("return localStorage.getItem('__hsqueue1')") == "[]", "everything is sent")

    def settles(self) -> None:
        """Waits until the script runs and nothing is on its way."""
        until(lambda: self.execute_script("return !!window.__hsTracking"), "the script runs")
        time.sleep(0.5)

    def on_each_page(self, source: str) -> None:
        """Runs a script in each page from the next one on, before the page's own."""
        self.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})

    def says(self, **headers: str) -> None:
        """Sends these headers with every request from now on; `_` stands for `-`."""
        self.execute_cdp_cmd("Network.enable", {})
        self.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {name.replace("_", "-"): value for name, value in headers.items()}})

    def blocks(self, *patterns: str) -> None:
        """No request to such an address leaves the browser; none: all do."""
        self.execute_cdp_cmd("Network.enable", {})
        self.execute_cdp_cmd("Network.setBlockedURLs", {"urls": list(patterns)})

    def is_at(self, ms: int) -> None:
        """Sets the clock of each page from the next one on so far from the real one."""
        self.on_each_page(f"(() => {{ const now = Date.realNow || Date.now; Date.realNow = now; Date.now = () => now() + {ms}; }})()")

    def forgets_session(self) -> None:
        """The session's cookie expires, as the real one would in 30 minutes."""
        self.delete_cookie("__hssc")

    def sets_cookie(self, name: str, value: str) -> None:
        self.execute_script(f"document.cookie = '{name}={value}; domain=site.localhost; path=/'")
