"""Tracked links in a browser: who opens them, who touches the page, who scans it."""

import time
from collections.abc import Callable

import pytest

from tests.edge.browser.driving import AGENT, OFF, Browser, World
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


def test_a_tracked_link(world: World, browser: Browser) -> None:
    """The sealed click leaves the address at once, and comes back with the cookie only when somebody touches the page."""
    browser.get(world.tracked())
    (view,) = world.has_views(1)
    assert browser.current_url == world.url(OFF, "scrolled", "?a=1")
    assert view.url == browser.current_url
    time.sleep(1)
    assert [click.utk for click in world.clicks()] == [None], "nobody has touched the page"
    browser.touch()
    until(lambda: len({click.utk for click in world.clicks()}) == 2, "the click comes back")
    assert {click.utk for click in world.clicks()} == {None, view.utk}
    assert len({click.event_id for click in world.clicks()}) == 1


def test_a_click_opened_in_two_browsers(world: World, browsers: Callable[..., Browser]) -> None:
    """The landing address, passed on, binds the first browser alone."""
    path = world.tracked().partition("/l/")[2]
    address = world.edge.get(f"/l/{path}", {"User-Agent": AGENT}).headers["Location"]
    for profile in ("a", "b"):
        browser = browsers(profile)
        browser.get(address)
        browser.settles()
        browser.touch()
        browser.has_sent()
    views = world.has_views(2)
    assert len({view.utk for view in views}) == 2
    assert {click.utk for click in world.clicks()} == {None, views[0].utk}


def test_a_link_host_on_another_domain(world: World, browser: Browser) -> None:
    """The mail's links are on a host that is none of the page's domain: it is one click all the same, with the page's utk."""
    browser.get(world.tracked(host="t.mails.localhost"))
    (view,) = world.has_views(1)
    browser.touch()
    until(lambda: len(world.clicks()) == 2, "the click comes back")
    assert view.utk is not None
    assert {click.utk for click in world.clicks()} == {None, view.utk}
    assert len({click.event_id for click in world.clicks()}) == 1
    assert {cookie["domain"] for cookie in browser.get_cookies()} == {".site.localhost"}


def test_a_scanner_that_runs_scripts(world: World, browsers: Callable[..., Browser]) -> None:
    """It loads the page, runs the script, goes on to other pages and is gone: without a touch the click stays nobody's."""
    scanner = browsers("scanner")
    scanner.get(world.tracked())
    world.has_views(1)
    scanner.get(world.url(OFF, "second"))
    scanner.touch()
    world.has_views(2)
    scanner.has_sent()
    assert [click.utk for click in world.clicks()] == [None]
