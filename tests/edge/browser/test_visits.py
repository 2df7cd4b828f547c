"""A visitor comes, comes again, comes later: exact cookies, and the hints in the events."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.edge.browser.driving import MINUTE, OFF, Browser, World
from tests.edge.browser.site import site
from tests.tls import new_certificate, tls_before

pytestmark = pytest.mark.timeout(300)

HALF_YEAR = 180 * 24 * 60
"""Six months, in minutes."""


def test_cookies_of_a_secure_page(world: World, page: Browser, tmp_path: Path) -> None:
    """Over https all cookies are for https alone: those that the script writes, and the one that the collector's answer sets anew."""
    certificate = new_certificate(tmp_path)
    with (
        tls_before(world.edge.port, certificate) as collector,
        site(f"https://t.site.localhost:{collector}") as port,
        tls_before(port, certificate) as tls_port,
    ):
        page.get(world.url(OFF).replace("http:", "https:").replace(f":{world.port}", f":{tls_port}"))
        page.has_sent()
        (view,) = world.has_views(1)
        assert {(cookie["name"], cookie["secure"]) for cookie in page.get_cookies()} == {
            ("__hstc", True),
            ("hubspotutk", True),
            ("__hssc", True),
            ("__hssrc", True),
        }
        assert page.cookies()["hubspotutk"] == view.utk


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
    written = ("domain", "path", "sameSite", "secure", "httpOnly")
    assert {tuple(cookie[name] for name in written) for cookie in browser.get_cookies()} == {(".site.localhost", "/", "Lax", False, False)}
    assert browser.lives() == {"__hstc": HALF_YEAR, "hubspotutk": HALF_YEAR, "__hssc": 30, "__hssrc": None}
    assert (first.hstc, first.hssc) == (cookies["__hstc"], cookies["__hssc"])

    browser.get(world.url(OFF, "second"))
    _, second = world.has_views(2)
    assert (second.utk, second.hstc, second.hssc) == (utk, first.hstc, f"{hash_}.2.{start}")

    browser.forgets_session()
    browser.is_at(31 * MINUTE)
    browser.get(world.url(OFF, "second"))
    third = world.has_views(3)[2]
    assert third.hstc is not None
    later = third.hstc.split(".")[4]
    assert int(later) - int(start) >= 31 * MINUTE
    assert (third.utk, third.hstc) == (utk, f"{hash_}.{utk}.{start}.{start}.{later}.2")
    assert (third.hssc, third.new_browser_session) == (f"{hash_}.1.{later}", False)
    browser.quit()

    browser = browsers()  # the profile is the same
    browser.get(world.url(OFF))
    fourth = next(view for view in world.has_views(4) if view.new_browser_session)
    assert fourth.hstc is not None
    restarted = fourth.hstc.split(".")[4]
    assert (fourth.utk, fourth.hstc, fourth.hssc) == (utk, f"{hash_}.{utk}.{start}.{later}.{restarted}.3", f"{hash_}.1.{restarted}")

    browser.delete_all_cookies()
    browser.get(world.url(OFF))
    fifth = next(view for view in world.has_views(5) if view.utk != utk)
    assert fifth.hstc is not None
    now = fifth.hstc.split(".")[4]
    assert (fifth.hstc, fifth.hssc) == (f"{hash_}.{fifth.utk}.{now}.{now}.{now}.1", f"{hash_}.1.{now}")
    assert (fifth.new_browser_session, browser.cookies()["__hstc"]) == (False, fifth.hstc)


@pytest.mark.parametrize(
    ("damage", "known", "number", "count"),
    [
        ({"__hstc": "1.2.3", "hubspotutk": "x"}, False, 1, 1),
        ({"__hstc": "1.2.3"}, True, 1, 1),
        ({"hubspotutk": "x"}, True, 1, 2),
        ({"__hssc": "1.2"}, True, 2, 1),
        ({"__hssrc": "2"}, True, 2, 1),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_damaged_cookies(world: World, browser: Browser, damage: dict[str, str], known: bool, number: int, count: int) -> None:
    """What can be read of them stands, the rest is made anew, and the page does not notice."""
    browser.get(world.url(OFF))
    (first,) = world.has_views(1)
    assert first.hstc is not None
    hash_, utk, start = first.hstc.split(".")[:3]
    for name, value in damage.items():
        browser.sets_cookie(name, value)
    browser.get(world.url(OFF))
    second = world.has_views(2)[1]
    assert second.hstc is not None
    now = second.hstc.split(".")[4]
    times = f"{start}.{start}.{now}" if known and "__hstc" not in damage else f"{now}.{now}.{now}"
    assert (second.utk == utk, second.hstc) == (known, f"{hash_}.{second.utk}.{times}.{number}")
    assert second.hssc == f"{hash_}.{count}.{start if count > 1 else now}"
    assert (now == start) == (count > 1)
    cookies = browser.cookies()
    assert (cookies["__hstc"], cookies["__hssc"], cookies["hubspotutk"]) == (second.hstc, second.hssc, second.utk)


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
