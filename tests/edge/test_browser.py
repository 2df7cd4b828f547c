"""The script in a real browser: cookies, consent, forms, tracked links, what happens when things are away; read back from the topics.

Needs Chromium and its driver (Debian: `apt-get install chromium chromium-driver`); without them these tests skip and say so.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from infra.servers import Servers
from pipeline.core.events import NOT_COMPARED, CustomEvent, EmailClick, Event, FormSubmission, Identify, Millis, PageView, PortalId
from pipeline.edge.core import links
from pipeline.settings import Settings
from tests.edge.running import KEY, Running, events, running, until
from tests.edge.site import site

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no chromium or chromedriver: apt-get install chromium chromium-driver"),
    pytest.mark.timeout(300),
]

OFF, OPT_IN, CATEGORIES, OPT_OUT, TWO_HOSTS, NO_HOST = 1, 2, 3, 4, 5, 6
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"
MINUTE = 60_000
DEAD = "http://t.site.localhost:1"


def portals(port: int) -> str:
    modes = {OFF: "off", OPT_IN: "opt_in", CATEGORIES: "opt_in_categories", OPT_OUT: "opt_out", TWO_HOSTS: "off", NO_HOST: "off"}
    hosts = {TWO_HOSTS: [DEAD, f"http://t.site.localhost:{port}"], NO_HOST: [DEAD]}
    return "\n".join(
        f'[[portals]]\nid = {portal}\ndomains = ["site.localhost", "shop.localhost"]\n'
        f'hosts = {hosts.get(portal, [])}\nkeys = ["env:EDGE_KEY"]\n'
        f'consent = {{ mode = "{mode}" }}\nthank_you = "http://www.site.localhost/thanks"\n'
        for portal, mode in modes.items()
    ).replace("'", '"')


@dataclass
class World:
    """A site, a collector on the same domain, and what a browser did there."""

    edge: Running
    port: int
    visit: str = ""

    def url(self, portal: int, page: str = "plain", query: str = "") -> str:
        return f"http://www.site.localhost:{self.port}/{portal}/{self.visit}/{page}{query}"

    def shop(self, portal: int, page: str) -> str:
        """The same page on the portal's other domain."""
        return self.url(portal, page).replace("www.site", "www.shop")

    def events(self) -> list[Event]:
        """Each once, except clicks. A page that is left sends again what has no answer yet; such copies agree in all that is compared."""
        found = events(self.edge.settings)
        once = {event.event_id: event for event in found}
        for event in found:
            if not isinstance(event, EmailClick):
                assert compared(event) == compared(once[event.event_id])
        return [event for event in found if isinstance(event, EmailClick) or once[event.event_id] is event]

    def views(self) -> list[PageView]:
        """Of this visit's pages, in the order of their time."""
        mine = [event for event in self.events() if isinstance(event, PageView) and self.visit in event.url]
        return sorted(mine, key=lambda view: view.occurred_at)

    def has_views(self, count: int) -> list[PageView]:
        until(lambda: len(self.views()) >= count, f"{count} page views:\n{self.edge.log}")
        views = self.views()
        assert len(views) == count
        return views


def compared(event: Event) -> dict[str, Any]:
    """The fields in which copies of an event must agree (docs/spec/events.md)."""
    return {name: value for name, value in msgspec.structs.asdict(event).items() if name not in NOT_COMPARED}


@pytest.fixture(scope="module")
def place(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    name = {"bootstrap_servers": servers.kafka.bootstrap_servers, "topic_prefix": f"test_{uuid4().hex[:12]}-"}
    edge = Running(Settings.model_validate({"kafka": name}), tmp_path_factory.mktemp("edge"))
    with (
        running(edge.settings, edge.directory, port=edge.port, portals=portals(edge.port)) as started,
        site(f"http://t.site.localhost:{edge.port}") as port,
    ):
        yield World(started, port)


@pytest.fixture
def world(place: World) -> World:
    """The same place, with addresses of its own for each test."""
    return World(place.edge, place.port, f"v{uuid4().hex[:8]}")


class Browser(webdriver.Chrome):
    """Chromium with a profile of its own, which a restart keeps."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        assert CHROMIUM is not None
        options.binary_location = CHROMIUM
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-agent={AGENT}"):
            options.add_argument(argument)
        options.add_argument(f"--user-data-dir={profile}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        super().__init__(options=options, service=webdriver.ChromeService(DRIVER))
        self.set_page_load_timeout(60)

    def cookies(self) -> dict[str, str]:
        return {cookie["name"]: cookie["value"] for cookie in self.get_cookies()}

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


@pytest.fixture
def browsers(tmp_path: Path) -> Iterator[Callable[..., Browser]]:
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


def later(browser: Browser, ms: int) -> None:
    """Moves the page's clock, from the next page on, and lets the session's cookie expire as the real one would."""
    browser.delete_cookie("__hssc")
    source = f"(() => {{ const now = Date.now; Date.now = () => now() + {ms}; }})()"
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})


def test_visits_and_their_cookies(world: World, browsers: Callable[..., Browser]) -> None:
    """First visit, second page, 30 minutes later, a restarted browser, cookies deleted: exact cookies, and hints in the events."""
    browser = browsers()
    browser.get(world.url(OFF))
    (first,) = world.has_views(1)
    cookies = browser.cookies()
    hash_, utk, *times = cookies["__hstc"].split(".")
    start = times[0]
    assert (first.utk, first.new_browser_session) == (utk, False)
    assert (cookies["hubspotutk"], cookies["__hssrc"]) == (utk, "1")
    assert cookies["__hssc"] == f"{hash_}.1.{start}"
    assert times == [start, start, start, "1"]
    assert {cookie["domain"] for cookie in browser.get_cookies()} == {".site.localhost"}
    assert (first.hstc, first.hssc) == (cookies["__hstc"], cookies["__hssc"])

    browser.get(world.url(OFF, "second"))
    _, second = world.has_views(2)
    assert (second.utk, second.hstc, second.hssc) == (utk, first.hstc, f"{hash_}.2.{start}")

    later(browser, 31 * MINUTE)
    browser.get(world.url(OFF, "second"))
    third = world.has_views(3)[2]
    assert third.hstc is not None
    _, _, initial, previous, current, number = third.hstc.split(".")
    assert (third.utk, initial, previous, number) == (utk, start, start, "2")
    assert int(current) - int(start) >= 31 * MINUTE
    assert not third.new_browser_session
    browser.quit()

    browser = browsers()  # the profile is the same
    browser.get(world.url(OFF))
    fourth = next(view for view in world.has_views(4) if view.new_browser_session)
    assert fourth.utk == utk
    assert fourth.hstc is not None
    assert fourth.hstc.endswith(".3")

    browser.delete_all_cookies()
    browser.get(world.url(OFF))
    assert len({view.utk for view in world.has_views(5)}) == 2


def test_damaged_cookies(world: World, browser: Browser) -> None:
    """Rubbish in the cookies makes a new visitor, and the page does not notice."""
    browser.get(world.url(OFF))
    (first,) = world.has_views(1)
    browser.execute_script(
        "document.cookie = '__hstc=1.2.3; domain=site.localhost; path=/'; document.cookie = 'hubspotutk=x; domain=site.localhost; path=/'"
    )
    browser.get(world.url(OFF))
    second = world.has_views(2)[1]
    assert second.utk not in (None, first.utk)


def forms_of(world: World) -> list[FormSubmission]:
    found = [event for event in world.events() if isinstance(event, FormSubmission)]
    return [form for form in found if form.page_url and world.visit in form.page_url]


def test_a_caught_form(world: World, browser: Browser) -> None:
    """The form counts once, with the visitor's cookie, and without password and card number."""
    browser.get(world.url(OFF))
    (first,) = world.has_views(1)
    browser.get(world.url(OFF, "form"))
    browser.settles()
    browser.find_element(By.NAME, "email").send_keys("Ann@x.io")
    browser.find_element(By.ID, "send").click()
    until(lambda: forms_of(world), "the form")
    world.has_views(3)
    (form,) = forms_of(world)
    assert (form.form_id, form.email, form.utk) == ("contact", "ann@x.io", first.utk)
    assert form.fields == (("email", "Ann@x.io"), ("size", "4"))
    assert all(view.url.partition("?")[2].find("ann") < 0 for view in world.views()), "no address in the page's url"


def test_a_form_posted_to_the_collector(world: World, browser: Browser) -> None:
    """The form is the collector's alone, with the cookie and the page that the script adds; the sender is thanked."""
    browser.get(world.url(OFF, "posted"))
    (view,) = world.has_views(1)
    browser.find_element(By.NAME, "email").send_keys("ann@x.io")
    browser.find_element(By.ID, "send").click()
    until(lambda: forms_of(world), "the form")
    (form,) = forms_of(world)
    assert (form.form_id, form.email, form.utk, form.fields) == ("posted", "ann@x.io", view.utk, (("email", "ann@x.io"),))
    assert browser.current_url == "http://www.site.localhost/thanks"


def tracked(world: World, portal: int = OFF) -> str:
    sent = Millis(time.time_ns() // 1_000_000 - MINUTE)
    told = links.Link("ann@x.io", world.visit, world.url(portal, "scrolled", "?a=1"), sent, Millis(sent + 60 * MINUTE))
    token = links.sealed_link([bytes.fromhex(KEY)], PortalId(portal), told, uuid4().bytes[:12])
    return f"http://t.site.localhost:{world.edge.port}/l/{token}"


def clicks(world: World) -> list[EmailClick]:
    return [event for event in world.events() if isinstance(event, EmailClick) and event.send_id == world.visit]


def test_a_tracked_link(world: World, browser: Browser) -> None:
    """The sealed click leaves the address at once, and comes back with the cookie only when somebody touches the page."""
    browser.get(tracked(world))
    (view,) = world.has_views(1)
    assert browser.current_url == world.url(OFF, "scrolled", "?a=1")
    assert view.url == browser.current_url
    time.sleep(1)
    assert [click.utk for click in clicks(world)] == [None], "nobody has touched the page"
    browser.touch()
    until(lambda: len({click.utk for click in clicks(world)}) == 2, "the click comes back")
    assert {click.utk for click in clicks(world)} == {None, view.utk}
    assert len({click.event_id for click in clicks(world)}) == 1


def test_a_click_opened_in_two_browsers(world: World, browsers: Callable[..., Browser]) -> None:
    """The landing address, passed on, binds the first browser alone."""
    path = tracked(world).partition("/l/")[2]
    address = world.edge.get(f"/l/{path}", {"User-Agent": AGENT}).headers["Location"]
    for profile in ("a", "b"):
        browser = browsers(profile)
        browser.get(address)
        browser.settles()
        browser.touch()
        browser.has_sent()
    views = world.has_views(2)
    assert len({view.utk for view in views}) == 2
    assert {click.utk for click in clicks(world)} == {None, views[0].utk}


def answers(utk: str | None, world: World) -> list[CustomEvent]:
    return [event for event in world.events() if isinstance(event, CustomEvent) and event.name == "consent" and event.utk == utk]


def test_opt_in(world: World, browser: Browser) -> None:
    """Before the answer and after a no: nobody, no cookie. After a yes: a visitor. Withdrawn: nobody again, and later another one."""
    browser.get(world.url(OPT_IN))
    (before,) = world.has_views(1)
    assert (before.utk, before.ip, before.user_agent, before.title) == (None, None, None, None)
    assert browser.cookies() == {}
    browser.banner("Decline")
    browser.get(world.url(OPT_IN))
    assert world.has_views(2)[1].utk is None
    assert set(browser.cookies()) == {"__hs_opt_out", "__hs_cookie_cat_pref", "__hs_initial_opt_in"}
    assert not browser.find_elements(By.ID, "__hsbanner")
    browser.execute_script("_hsq.push(['setConsent', {analytics: true}])")
    utk = browser.cookies()["hubspotutk"]
    browser.get(world.url(OPT_IN))
    assert world.has_views(3)[2].utk == utk
    until(lambda: answers(utk, world), "the answer")
    assert (
        answers(utk, world)[0].properties == '{"advertisement":false,"analytics":true,"functionality":false,"mode":"opt_in","version":"1"}'
    )
    browser.execute_script("_hsp.push(['revokeCookieConsent'])")
    assert browser.cookies() == {}
    browser.banner("Accept")
    assert browser.cookies()["hubspotutk"] not in (utk, None)


def test_categories(world: World, browser: Browser) -> None:
    """Each category by itself: a script that waits for advertisement runs after that yes, and not before."""
    browser.get(world.url(CATEGORIES, "held"))
    browser.settles()
    assert browser.title == "held"
    until(lambda: browser.find_elements(By.ID, "__hsbanner"), "the banner is there")
    browser.find_element(By.ID, "__hsbanner").shadow_root.find_element(By.ID, "advertisement").click()
    browser.banner("Save my choice")
    assert browser.title == "advertised"
    assert "hubspotutk" not in browser.cookies()
    assert browser.cookies()["__hs_cookie_cat_pref"] == "1:false_2:true_3:false"


def test_global_privacy_control(world: World, browser: Browser) -> None:
    """In opt_out the browser's objection is a no."""
    source = "Object.defineProperty(navigator, 'globalPrivacyControl', {value: true})"
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"Sec-GPC": "1"}})
    browser.get(world.url(OPT_OUT))
    (view,) = world.has_views(1)
    assert (view.utk, view.user_agent) == (None, None)
    assert browser.cookies() == {}


def test_do_not_track(world: World, browser: Browser) -> None:
    """After doNotTrack the script sends nothing at all, until it is taken back."""
    browser.get(world.url(OFF))
    world.has_views(1)
    browser.execute_script("_hsq.push(['doNotTrack'])")
    browser.get(world.url(OFF))
    browser.settles()
    browser.execute_script("_hsq.push(['doNotTrack', {track: true}])")
    browser.get(world.url(OFF, "second"))
    assert [view.url for view in world.has_views(2)] == [world.url(OFF), world.url(OFF, "second")]


def test_commands(world: World, browser: Browser) -> None:
    """Single-page navigation, identify with the next hit, and events of the site's own."""
    browser.get(world.url(OFF))
    (view,) = world.has_views(1)
    browser.execute_script(
        "_hsq.push(['identify', {email: 'Ann@x.io', id: 4, plan: 'big'}], ['setPath', arguments[0]], ['trackPageView'],"
        "['trackCustomBehavioralEvent', {name: 'bought', properties: {price: 3}}], ['noSuchCommand'], 7, ['identify'])",
        f"/{OFF}/{world.visit}/spa?token=canary",
    )
    spa = world.has_views(2)[1]
    assert (spa.url, spa.referrer) == (world.url(OFF, "spa"), world.url(OFF))

    def mine(kind: type[Event]) -> list[Any]:
        return [event for event in world.events() if isinstance(event, kind) and event.utk == view.utk]

    until(lambda: mine(Identify) and mine(CustomEvent), "identify and the event")
    (identify,), (custom,) = mine(Identify), mine(CustomEvent)
    assert (identify.email, identify.external_id, identify.properties) == ("ann@x.io", "4", '{"plan":"big"}')
    assert (custom.name, custom.properties) == ("bought", '{"price":3}')


def offline(browser: Browser, value: bool) -> None:
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd(
        "Network.emulateNetworkConditions", {"offline": value, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    )


def test_offline_then_the_next_page(world: World, browser: Browser) -> None:
    """What could not be sent waits in the browser and goes with the next page, once."""
    browser.get(world.url(OFF))
    world.has_views(1)
    offline(browser, True)
    browser.execute_script("_hsq.push(['setPath', arguments[0]], ['trackPageView'])", f"/{OFF}/{world.visit}/offline")
    time.sleep(1)
    assert len(world.views()) == 1
    offline(browser, False)
    browser.get(world.url(OFF, "second"))
    assert sorted(view.url.rpartition("/")[2] for view in world.has_views(3)) == ["offline", "plain", "second"]


def test_back_and_forward(world: World, browser: Browser) -> None:
    """A page that is shown again from the back-forward cache counts again."""
    browser.get(world.url(OFF))
    world.has_views(1)
    browser.get(world.url(OFF, "second"))
    world.has_views(2)
    browser.back()
    assert [view.url.rpartition("/")[2] for view in world.has_views(3)] == ["plain", "second", "plain"]


def test_a_strict_page(world: World, browser: Browser) -> None:
    """A content security policy that allows the collector alone allows everything that the script and the banner do."""
    browser.get(world.url(OPT_IN, "strict-plain"))
    world.has_views(1)
    browser.banner("Accept")
    assert "hubspotutk" in browser.cookies()
    assert [entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]] == []  # type: ignore[no-untyped-call]


def test_the_second_host(world: World, browser: Browser) -> None:
    """The first collector host does not answer: the second has the hit, once."""
    browser.get(world.url(TWO_HOSTS))
    assert world.has_views(1)[0].utk == browser.cookies()["hubspotutk"]


def test_no_host_at_all(world: World, browser: Browser) -> None:
    """Every collector is blocked: the page and its form work as if there was no script."""
    browser.get(world.url(NO_HOST, "form"))
    browser.settles()
    browser.find_element(By.NAME, "email").send_keys("ann@x.io")
    browser.find_element(By.ID, "send").click()
    until(lambda: browser.title == "second", "the form was sent")
    assert world.views() == []


def test_the_banner_can_be_used_with_keys(world: World, browser: Browser) -> None:
    """A dialog with a name, which has the focus; Tab and Enter answer it."""
    browser.get(world.url(OPT_IN))
    until(lambda: browser.find_elements(By.ID, "__hsbanner"), "the banner is there")
    section = browser.find_element(By.ID, "__hsbanner").shadow_root.find_element(By.CSS_SELECTOR, "section")
    assert (section.get_attribute("role"), section.accessible_name) == ("dialog", "Cookies on this site")
    active = browser.switch_to.active_element
    active.send_keys(Keys.TAB, Keys.ENTER)
    until(lambda: "hubspotutk" in browser.cookies(), "accepted")


def test_two_domains_of_one_portal(world: World, browser: Browser) -> None:
    """A link to the portal's other domain takes the visitor along; the address is clean on arrival; an address passed on adopts nobody."""
    browser.get(world.url(OFF))
    (first,) = world.has_views(1)
    browser.execute_script("document.getElementById('next').href = arguments[0]", world.shop(OFF, "second"))
    browser.find_element(By.ID, "next").click()
    second = world.has_views(2)[1]
    assert second.utk == first.utk
    assert browser.current_url == second.url == world.shop(OFF, "second")
    assert browser.cookies()["hubspotutk"] == first.utk

    token = browser.execute_async_script(
        "fetch(arguments[0], {method: 'POST', body: JSON.stringify({type: 'carry', utk: arguments[1]})})"
        ".then((answer) => answer.json()).then((answer) => arguments[2](answer.token))",
        f"http://t.site.localhost:{world.edge.port}/e/{OFF}",
        first.utk,
    )
    assert token
    browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
    browser.get("about:blank")
    browser.get(world.shop(OFF, f"plain?_hsx={token}"))
    third = world.has_views(3)[2]
    assert third.utk not in (None, first.utk)
    assert third.url == browser.current_url == world.shop(OFF, "plain")
