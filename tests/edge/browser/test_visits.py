"""A visitor comes, comes again, comes later: exact cookies, and the hints in the events."""

from collections.abc import Callable

import pytest

from tests.edge.browser.driving import MINUTE, OFF, Browser, World

pytestmark = pytest.mark.timeout(300)


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

    browser.forgets_session()
    browser.is_at(31 * MINUTE)
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


def test_cookies_of_another_domain(world: World, browser: Browser) -> None:
    """Each cookie is read for itself: a session of another domain and time than the visitor's goes on, and both keep their hashes."""
    browser.get(world.url(OFF))
    (first,) = world.has_views(1)
    browser.sets_cookie("__hstc", f"20629287.{first.utk}.1.2.3.4")
    browser.sets_cookie("__hssc", "114212440.5.6")
    browser.get(world.url(OFF, "second"))
    second = world.has_views(2)[1]
    assert (second.utk, second.hstc, second.hssc) == (first.utk, f"20629287.{first.utk}.1.2.3.4", "114212440.6.6")
    assert browser.cookies()["__hssc"] == "114212440.6.6"


def test_damaged_answers(world: World, browser: Browser) -> None:
    """A cookie of consent that is no text stops nothing."""
    browser.get(world.url(OFF))
    world.has_views(1)
    browser.execute_script("for (const text of ['__hs_opt_out=no', '__hs_cookie_cat_pref=100%']) document.cookie = text + '; path=/'")
    browser.get(world.url(OFF, "second"))
    assert world.has_views(2)[1].url.endswith("/second")
