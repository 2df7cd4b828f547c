"""A collector host that is not there, never answers, or is broken: the next one does its work, for every request of the script."""

import pytest
from selenium.webdriver.common.by import By

from tests.edge.browser.driving import (
    ASKING_BROKEN_HOST,
    ASKING_SILENT_HOST,
    ASKING_TWO_HOSTS,
    BROKEN_HOST,
    SILENT_HOST,
    TWO_HOSTS,
    Browser,
    World,
)
from tests.edge.browser.pushing import REQUESTS
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)

ASKED = "return asked.map(([url, body]) => [new URL(url).port, body])"


@pytest.mark.parametrize("portal", [ASKING_TWO_HOSTS, ASKING_SILENT_HOST, ASKING_BROKEN_HOST])
def test_the_banner_and_the_hits(world: World, browser: Browser, portal: int) -> None:
    """The visitor is asked, the answer counts, and so does the view that came first; then the host that works is asked at once."""
    browser.on_each_page(REQUESTS)
    browser.get(world.url(portal))
    browser.banner("Accept")
    utk = browser.cookies()["hubspotutk"]
    assert world.has_views(1)[0].utk is None
    until(lambda: world.answers(utk), "the answer")
    until(lambda: browser.execute_script(f"return localStorage.getItem('__hsqueue{portal}')") == "[]", "everything is sent")
    before = len(browser.execute_script(ASKED))
    browser.execute_script("_hsq.push(['trackPageView'])")
    world.has_views(2)
    assert [port for port, _ in browser.execute_script(ASKED)[before:]] == [str(world.edge.port)]


@pytest.mark.parametrize("portal", [TWO_HOSTS, SILENT_HOST, BROKEN_HOST])
def test_over_two_domains(world: World, browser: Browser, portal: int) -> None:
    """A link that is followed before any host has answered carries the visitor, who is adopted on arrival."""
    browser.get(world.url(portal))
    until(lambda: "hubspotutk" in browser.cookies(), "the script runs")
    utk = browser.cookies()["hubspotutk"]
    browser.execute_script("document.getElementById('next').href = arguments[0]", world.shop(portal, "second"))
    browser.find_element(By.ID, "next").click()
    until(lambda: browser.current_url == world.shop(portal, "second"), "the other domain, and a clean address")
    assert {view.utk for view in world.has_views(2)} == {utk}


def test_a_page_left_before_a_host_has_answered(world: World, browser: Browser) -> None:
    """Nothing may be stored without consent: whichever host can have the view gets it when the page is left."""
    browser.get(world.url(ASKING_SILENT_HOST))
    until(lambda: browser.execute_script("return !!window.__hsTracking"), "the script runs")
    browser.get("about:blank")
    world.has_views(1)


def test_withdrawn_between_two_hosts(world: World, browser: Browser) -> None:
    """What waits for a host that is silent is not given to the next one after a no."""
    browser.on_each_page(REQUESTS)
    browser.get(world.url(SILENT_HOST))
    until(lambda: "hubspotutk" in browser.cookies(), "the script runs")
    utk = browser.cookies()["hubspotutk"]
    browser.execute_script("_hsq.push(['setConsent', false])")
    until(world.refusals, "the answer is sent")
    asked = browser.execute_script(ASKED)
    assert utk in asked[0][1], "the first host was asked before the answer"
    assert [body for port, body in asked if port == str(world.edge.port) and utk in body] == []
    assert world.views() == []
