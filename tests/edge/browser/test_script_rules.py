"""What the script promises (docs/spec/edge.md, docs/site-owners.md), each promise in a page, whose console stays empty."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from selenium.webdriver.common.by import By

from infra.pages import Pages, served
from pipeline.core.events import CustomEvent
from tests.edge.browser.driving import CATEGORIES, NO_BANNER, OFF, OPT_IN, OTHER_RULES, Browser, World
from tests.edge.browser.pushing import REQUESTS, custom, event, offline, push
from tests.edge.browser.site import PAGES
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)

UNUSUAL = {
    "before": """<!doctype html><html lang=en>SCRIPT<body><a id=next href=ahead>Next</a><script type=speculationrules>
        {"prerender": [{"source": "list", "urls": ["ahead"], "eagerness": "immediate"}]}</script>""",
    "ahead": "<!doctype html><html lang=en>SCRIPT<script>localStorage.setItem('ahead', document.prerendering)</script><body>Ahead",
    "clobbered": "<!doctype html><html lang=en><body><img name=currentScript src='http://evil.localhost:1/t.png'>SCRIPT",
}
# Page views


@pytest.fixture
def pages(world: World) -> Iterator[Callable[[int, str], str]]:
    """Addresses on `www.site.localhost`, by portal and name, of pages that the site of all tests has not."""
    source = f"http://t.site.localhost:{world.edge.port}/t/"

    class Handler(Pages):
        def do_GET(self) -> None:
            portal, _, name = self.path.strip("/").split("/")
            script = f'<script async src="{source}{portal}.js"></script>'
            if name == "slow":
                self.slowly("<!doctype html><html lang=en>" + script)
            else:
                self.answer(UNUSUAL.get(name, "").replace("SCRIPT", script).encode(), "text/html")

        def slowly(self, beginning: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(beginning.encode())
            time.sleep(2)
            self.wfile.write(b"<title>slow</title><link rel=canonical href=/whole#part><body>" + PAGES["held"].encode())

    with served(Handler) as port:
        yield lambda portal, name: f"http://www.site.localhost:{port}/{portal}/{world.visit}/{name}"


def test_a_prerendered_page(world: World, page: Browser, pages: Callable[[int, str], str]) -> None:
    """It counts when it is shown, and not before."""
    page.get(pages(OFF, "before"))
    world.has_views(1)
    until(lambda: page.execute_script("return localStorage.getItem('ahead')") == "true", "the next page is prerendered")
    time.sleep(1)
    assert len(world.views()) == 1
    page.find_element(By.ID, "next").click()
    assert world.has_views(2)[1].url == pages(OFF, "ahead")
    assert page.execute_script("return performance.getEntriesByType('navigation')[0].activationStart") > 0


def test_a_page_that_comes_slowly(world: World, page: Browser, pages: Callable[[int, str], str]) -> None:
    """The script is there before the rest of the page: title and canonical address are told, and what was held until a yes runs."""
    page.get(world.url(OFF))
    world.has_views(1)  # the script is in the browser's cache
    page.get(pages(OFF, "slow"))
    view = world.has_views(2)[1]
    canonical = pages(OFF, "slow").partition(f"/{OFF}/")[0] + "/whole"
    assert (view.title, view.properties) == ("slow", json.dumps({"canonical": canonical}, separators=(",", ":")))
    assert page.title == "advertised"


def test_a_page_that_pretends(page: Browser, pages: Callable[[int, str], str]) -> None:
    """An image that calls itself the current script (user content may) does not lead the banner to another host."""
    page.get(pages(OPT_IN, "clobbered"))
    page.settles()
    assert page.find_elements(By.CSS_SELECTOR, "script[src*=evil]") == []
    assert [entry for entry in page.get_log("browser") if "evil.localhost:1/t/" in entry["message"]] == []  # type: ignore[no-untyped-call]


def test_a_single_page_application(world: World, page: Browser) -> None:
    """Moves in the history count nothing by themselves, and are left alone; trackPageView takes the address, or the last setPath."""
    page.on_each_page("if (location.search) history.replaceState({kept: 1}, '')")
    page.get(world.url(OFF, "plain", "?_hsc=click&a=1&_hsx=visitor"))
    world.has_views(1)
    assert page.execute_script("return [location.search, history.state, history.length]") == ["?a=1", {"kept": 1}, 2]
    page.execute_script("history.pushState({at: 2}, '', 'two'); _hsq.push(['trackPageView'])")
    page.execute_script("history.pushState({at: 3}, '', 'three'); history.replaceState({at: 4}, '', 'four')")
    push(page, ["setPath", "http://["], ["trackPageView"], ["setPath", "five#part"], ["trackPageView"], ["trackPageView"])
    page.back()
    until(lambda: page.execute_script("return history.state") == {"at": 2}, "one step back")
    push(page, event(world, "last"))
    custom(world, "last")
    views = world.has_views(5)
    came = Counter((view.url.rpartition("/")[2], (view.referrer or "").rpartition("/")[2]) for view in views)
    assert came == Counter([("plain?a=1", ""), ("two", "plain?a=1"), ("four", "two"), ("five", "four"), ("five", "five")])
    assert {view.utk for view in views} == {page.cookies()["hubspotutk"]}
    assert page.cookies()["__hssc"].split(".")[1] == "5"


def test_shown_when_it_is_visible(world: World, page: Browser) -> None:
    """`bind_on = "visible"`: the click of a mail comes back without a touch."""
    page.get(world.tracked(OTHER_RULES))
    until(lambda: len({click.utk for click in world.clicks()}) == 2, "the click comes back")
    assert {click.utk for click in world.clicks()} == {None, page.cookies()["hubspotutk"]}


def test_objections_may_be_ignored(world: World, page: Browser) -> None:
    """A portal may have switched off Global Privacy Control and Do Not Track."""
    for name, value in (("globalPrivacyControl", "true"), ("doNotTrack", "'1'")):
        page.on_each_page(f"Object.defineProperty(navigator, '{name}', {{value: {value}}})")
    page.says(Sec_GPC="1", DNT="1")
    page.get(world.url(OTHER_RULES, "held"))
    assert world.has_views(1)[0].utk == page.cookies()["hubspotutk"]
    assert page.title == "advertised"


def test_the_chats_visitor(world: World, page: Browser) -> None:
    """`messagesUtk` goes along with consent to analytics and functionality, and is deleted by a no."""
    chat = uuid4().hex
    page.on_each_page(REQUESTS)
    page.get(world.url(CATEGORIES, "no-page"))
    page.execute_script("document.cookie = 'messagesUtk=' + arguments[0] + '; path=/'", chat)
    for functionality in (False, True):
        page.get(world.url(CATEGORIES))
        until(lambda: page.execute_script("return !!window.__hsTracking"), "the script runs")
        push(page, ["setConsent", {"analytics": True, "functionality": functionality}], ["trackPageView"])
        until(lambda: page.execute_script(f"return localStorage.getItem('__hsqueue{CATEGORIES}')") == "[]", "everything is sent")
        assert (chat in json.dumps(page.execute_script("return asked"))) == functionality
    told = [json.loads(view.properties or "{}").get("messages_utk") for view in world.has_views(4)]
    assert sorted(told, key=str) == sorted([chat, None, None, None], key=str)
    push(page, ["setConsent", {"functionality": True}])
    assert "messagesUtk" not in page.cookies()


# Commands


def test_commands_before_and_after_loading(world: World, page: Browser) -> None:
    """Both names of the queue are one; a command runs once, settings before the first view; rubbish and errors in listeners harm nobody."""
    page.on_each_page(
        """window.told = []; const fail = () => { throw new Error('of the page'); };
        window._hsq = window._hsp = [null, 7, 'nothing', [], ['noSuchCommand'], ['__proto__'], ['identify'], ['setPath', 'shown'],
          ['addPrivacyConsentListener', fail], ['addPrivacyConsentListener', 'none'], ['addIdentityListener', fail],
          ['addPrivacyConsentListener', (state) => told.push(state)], ['addIdentityListener', (utk) => told.push(utk)],
          ['trackCustomBehavioralEvent', {name: 'early ' + location.pathname.split('/')[2]}]]"""
    )
    page.get(world.url(OFF))
    (view,) = world.has_views(1)
    utk = page.cookies()["hubspotutk"]
    assert (view.url.rpartition("/")[2], view.utk) == ("shown", utk)
    assert [early.utk for early in custom(world, "early")] == [utk]
    everything = {"allowed": True, "categories": {"analytics": True, "advertisement": True, "functionality": True}}
    assert page.execute_script("return told.splice(0)") == [everything, utk]

    page.execute_script(
        "document.head.append(Object.assign(document.createElement('script'), {src: document.querySelector('script').src}))"
    )
    page.execute_script("_hsp.push(['addIdentityListener', (utk) => told.push(utk)])")
    assert page.execute_script("return told.splice(0)") == [utk]
    push(page, ["resetVisitorIdentity"], event(world, "reset"))
    new = page.cookies()["hubspotutk"]
    assert page.execute_script("return told.splice(0)") == [new, new]
    assert new != utk
    assert [each.utk for each in custom(world, "reset")] == [new]
    page.execute_script("_hsp.push(['setHubSpotConsent', {categories: {advertisement: true}}])")
    refused = {"allowed": False, "categories": {"analytics": False, "advertisement": True, "functionality": False}}
    assert page.execute_script("return told.splice(0)") == [refused]
    assert "hubspotutk" not in page.cookies()
    page.execute_script("_hsp.push(['revokeCookieConsent'])")
    assert page.execute_script("return told.splice(0)") == [everything]
    assert len(world.views()) == 1, "the second script on the page did nothing"


def test_do_not_track_asks_nothing(world: World, page: Browser) -> None:
    """After doNotTrack no request at all leaves the page, nor the next one: no banner, and nothing that waited."""
    page.on_each_page(REQUESTS)
    page.get(world.url(OFF))
    world.has_views(1)
    page.has_sent()
    offline(page, True)
    push(page, event(world, "waits"), ["doNotTrack"], ["trackPageView"])
    assert page.execute_script("return localStorage.getItem('__hsqueue1')") is None
    offline(page, False)
    for portal in (OFF, OPT_IN):
        page.get(world.url(portal))
        page.settles()
        page.execute_script("window.dispatchEvent(new Event('online')); window.dispatchEvent(new PageTransitionEvent('pagehide'))")
        assert page.execute_script("return asked") == []
        assert not page.find_elements(By.ID, "__hsbanner")
    assert len(world.views()) == 1


# Consent


def test_preferences_with_commas(world: World, page: Browser) -> None:
    """The category cookie counts with commas, too."""
    page.get(world.url(CATEGORIES, "no-page"))
    page.sets_cookie("__hs_opt_out", "no")
    page.sets_cookie("__hs_cookie_cat_pref", "1:true,2:false,3:true")
    page.get(world.url(CATEGORIES, "held"))
    assert world.has_views(1)[0].utk == page.cookies()["hubspotutk"]
    assert page.title == "held"


def test_a_consent_platform(world: World, page: Browser) -> None:
    """Without the built-in banner nobody is asked, not even by showBanner, and setConsent counts."""
    page.on_each_page(REQUESTS)
    page.get(world.url(NO_BANNER))
    assert world.has_views(1)[0].utk is None
    push(page, ["showBanner"], ["setConsent", {"analytics": True}], ["revokeCookieConsent"])
    until(lambda: [answer for answer in world.events() if isinstance(answer, CustomEvent) and answer.portal_id == NO_BANNER], "the answer")
    assert page.cookies() == {}
    assert [url for url, *_ in page.execute_script("return asked") if "banner" in url] == []


def test_an_answer_in_another_tab(world: World, page: Browser) -> None:
    """A no in one tab counts in all, for what is done and for what waits; another visitor there is the visitor here."""
    page.get(world.url(OFF))
    (view,) = world.has_views(1)
    first = page.current_window_handle
    page.switch_to.new_window("tab")
    page.get(world.url(OFF, "second"))
    world.has_views(2)
    push(page, ["resetVisitorIdentity"])
    new = page.cookies()["hubspotutk"]
    page.switch_to.window(first)
    page.execute_script(REQUESTS)
    push(page, event(world, "reset"))
    assert [each.utk for each in custom(world, "reset")] == [new] != [view.utk]
    offline(page, True)
    push(page, event(world, "waits"))
    page.switch_to.window(page.window_handles[1])
    push(page, ["setConsent", False])
    page.switch_to.window(first)
    offline(page, False)
    page.execute_script("asked.length = 0")
    push(page, event(world, "refused", secret="canary"))
    assert [each.utk for each in custom(world, "refused")] == [None]
    assert new not in json.dumps(page.execute_script("return asked"))
    assert "hubspotutk" not in page.cookies()
