"""Pages of every kind: single-page, left while sending, offline, strict, blocked, and on two domains."""

import json
import time
from typing import Any

import pytest
from selenium.webdriver.common.by import By

from pipeline.core.events import CustomEvent, Event, Identify
from tests.edge.browser.driving import AGENT, NO_HOST, OFF, OPT_IN, TWO_HOSTS, Browser, World
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


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
    browser.has_sent()
    offline(browser, True)
    browser.execute_script("_hsq.push(['setPath', arguments[0]], ['trackPageView'])", f"/{OFF}/{world.visit}/offline")
    time.sleep(1)
    assert len(world.views()) == 1
    offline(browser, False)
    browser.get(world.url(OFF, "second"))
    assert sorted(view.url.rpartition("/")[2] for view in world.has_views(3)) == ["offline", "plain", "second"]


def test_tabs_share_what_waits(world: World, browser: Browser) -> None:
    """What another tab has stored stays there when this one stores and sends its own."""
    waiting = f"return JSON.parse(localStorage.getItem('__hsqueue{OFF}')).map((hit) => hit.event_id)"
    browser.get(world.url(OFF))
    world.has_views(1)
    offline(browser, True)
    browser.execute_script(f"localStorage.setItem('__hsqueue{OFF}', JSON.stringify([{{event_id: 'theirs', occurred_at: Date.now()}}]))")
    browser.execute_script("_hsq.push(['setPath', arguments[0]], ['trackPageView'])", f"/{OFF}/{world.visit}/offline")
    until(lambda: len(browser.execute_script(waiting)) == 2, "both wait")
    offline(browser, False)
    world.has_views(2)
    until(lambda: browser.execute_script(waiting) == ["theirs"], "only ours is taken out")


def test_back_and_forward(world: World, browser: Browser) -> None:
    """A page that is shown again from the back-forward cache counts again."""
    browser.get(world.url(OFF))
    world.has_views(1)
    browser.execute_script("window.mark = 'still there'")
    browser.get(world.url(OFF, "second"))
    world.has_views(2)
    browser.back()
    assert [view.url.rpartition("/")[2] for view in world.has_views(3)] == ["plain", "second", "plain"]
    assert browser.execute_script("return window.mark") == "still there", "the page was kept, not loaded again"


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


def test_a_visitor_who_is_known_adopts_nobody(world: World, browser: Browser) -> None:
    """Whoever has a cookie on the other domain keeps it, whatever a link of the portal's carries: nobody can give another his own."""
    browser.get(world.shop(OFF, "plain"))
    (there,) = world.has_views(1)
    browser.get(world.url(OFF))
    here = world.has_views(2)[1]
    assert here.utk not in (None, there.utk)
    browser.execute_script("document.getElementById('next').href = arguments[0]", world.shop(OFF, "second"))
    browser.find_element(By.ID, "next").click()
    assert world.has_views(3)[2].utk == browser.cookies()["hubspotutk"] == there.utk
    assert browser.current_url == world.shop(OFF, "second")


def test_resent_from_another_address(world: World, browser: Browser) -> None:
    """A page is left while its view is on its way; the next page and, from another network, a copy send it again: one view."""
    browser.get(world.url(OFF))
    world.has_views(1)
    browser.has_sent()
    with world.silent():
        browser.execute_script("_hsq.push(['setPath', arguments[0]], ['trackPageView'])", f"/{OFF}/{world.visit}/moved")
        (hit,) = json.loads(browser.execute_script("return localStorage.getItem('__hsqueue1')"))
        browser.get(world.url(OFF, "second"))
        until(lambda: browser.execute_script("return !!window.__hsTracking"), "the next page's script, from the cache, runs")
    elsewhere = {"Origin": f"http://www.site.localhost:{world.port}", "User-Agent": AGENT, "X-Forwarded-For": "198.51.100.7"}
    assert world.edge.post([hit], OFF, elsewhere).json()["accepted"] == 1
    views = world.has_views(3)
    assert sorted(view.url.rpartition("/")[2] for view in views) == ["moved", "plain", "second"]
    browser.has_sent()
    moved = [view for view in world.copies() if view.url.endswith("/moved")]
    assert {view.ip for view in moved} == {"127.0.0.0", "198.51.100.0"}
    assert {view.event_id for view in moved} == {hit["event_id"]}


def test_a_page_closed_while_sending(world: World, browser: Browser) -> None:
    """The tab is closed before there is an answer: the view is there, once."""
    browser.get(world.url(OFF))
    world.has_views(1)
    browser.has_sent()
    browser.switch_to.new_window("tab")
    browser.get(world.url(OFF, "scrolled"))
    world.has_views(2)
    with world.silent():
        browser.execute_script("_hsq.push(['setPath', arguments[0]], ['trackPageView'])", f"/{OFF}/{world.visit}/closed")
        browser.close()
        browser.switch_to.window(browser.window_handles[0])
    assert [view.url.rpartition("/")[2] for view in world.has_views(3)] == ["plain", "scrolled", "closed"]
