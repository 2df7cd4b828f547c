"""From browsers to ClickHouse, through every part: sessions, contacts and timelines are what `resolve` makes of the topics."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL
from uuid import uuid4

import pytest
from selenium.webdriver.common.by import By

from pipeline.core.copies import merge
from pipeline.core.events import Event
from pipeline.core.policy import Policy
from pipeline.resolve import Resolution, resolve_events
from pipeline.settings import Settings
from pipeline.timelines import timeline
from tests.edge.browser.driving import MINUTE, OFF, Browser, World, portals
from tests.edge.browser.site import site
from tests.edge.running import Running, events
from tests.end_to_end.reading import resolution_in_clickhouse
from tests.end_to_end.running import caught_up
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def world(chromium: None, settings: Settings, tmp_path: Path) -> Iterator[World]:
    """All parts on one machine, on topics and in a database of their own."""
    edge = Running(settings, tmp_path, command=("run", "--edge"))
    edge.portals = portals(edge.port)
    try:
        edge.start()
        with site(f"http://t.site.localhost:{edge.port}") as port:
            yield World(edge, port, f"v{uuid4().hex[:8]}")
    finally:
        edge.stop(SIGKILL)


def test_what_browsers_do_is_what_clickhouse_shows(world: World, browsers: Callable[..., Browser]) -> None:
    """Ann comes again and again and sends a form; opens her mail elsewhere and forwards it to Bob, who sends a form; a scanner opens it."""
    first, second, third = visits(world, browsers)
    sends_form(world, browsers, "ann", "ann@x.io")
    reader = opens_mail(world, browsers, "reader")
    friend = opens_mail(world, browsers, "friend")
    before = world.views()[-1].event_id
    settings = world.edge.settings
    until(lambda: (friend, "temporary") in statuses(settings), "the forwarded mail's cookie is possibly Ann's", 200)
    sends_form(world, browsers, "friend", "bob@x.io")
    scanner = browsers("scanner")
    scanner.get(world.tracked())
    scanned = until(lambda: world.views()[-1] if len(world.views()) == 15 else None, "the scanner's view")
    scanner.quit()

    caught_up(settings, world.edge.directory / "edge.log")
    expected = resolution_of(events(settings))
    until(
        lambda: resolution_in_clickhouse(settings) == expected,
        lambda: f"ClickHouse shows what resolve says:\n{world.edge.log[-3000:]}",
        120,
    )

    sessions = {(row.utk, row.number): row.page_view_count for row in expected.sessions}
    assert {(utk, number): sessions[utk, number] for utk, number in sessions if utk in (first, second, third)} == {
        (first, 1): 2,
        (first, 2): 1,
        (first, 3): 1,
        (second, 1): 1,
        (third, 1): 3,
        (third, 2): 2,
    }
    emails = {row.contact_id: row.email for row in expected.contacts}
    assert sorted(emails.values(), key=str) == ["ann@x.io", "bob@x.io"]
    links = {(row.utk, row.status): emails[row.contact_id] for row in expected.links}
    assert links == {(third, "bound"): "ann@x.io", (reader, "bound"): "ann@x.io", (friend, "bound"): "bob@x.io"}
    hers = timeline(settings, OFF, email="ann@x.io").entries
    assert [entry.type for entry in hers if entry.utk == third] == ["page_view"] * 4 + ["form_submission", "page_view"]
    assert [entry.session_number for entry in hers if entry.utk == third] == [1] * 3 + [2] * 3
    his = timeline(settings, OFF, email="bob@x.io").entries
    assert before in [entry.event_id for entry in his], "what the cookie did before its form"
    assert scanned.utk not in {entry.utk for entry in (*hers, *his)}


def visits(world: World, browsers: Callable[..., Browser]) -> list[str]:
    """The utks of a browser that comes, comes again, restarts, loses its cookies, has them damaged, and gets some of another domain.

    The collector cannot be reached until the end, so that each view has the time at which the page's clock stood.
    """
    browser = away(browsers("ann"))
    utks = [goes(browser, world, -70, "plain"), goes(browser, world, -69, "second")]
    browser.forgets_session()
    utks.append(goes(browser, world, -35, "second"))
    browser.quit()
    browser = away(browsers("ann"))
    utks.append(goes(browser, world, -20, "plain"))
    browser.delete_all_cookies()
    utks.append(goes(browser, world, -19, "plain"))
    browser.sets_cookie("__hstc", "1.2.3")
    browser.sets_cookie("hubspotutk", "x")
    utks.append(goes(browser, world, -18, "plain"))
    browser.sets_cookie("__hstc", f"20629287.{utks[-1]}.1.2.3.4")
    browser.sets_cookie("__hssc", "114212440.5.6")
    utks.append(goes(browser, world, -17, "second"))
    assert world.views() == []
    browser.blocks()
    utks.append(goes(browser, world, 0, "second"))
    first, _, _, _, second, third, _, _ = utks
    assert utks == [first] * 4 + [second] + [third] * 3
    assert [view.utk for view in world.has_views(8)] == utks
    browser.has_sent()
    browser.quit()
    return [first, second, third]


def away(browser: Browser) -> Browser:
    """It cannot send; beacons go out whatever is blocked."""
    browser.blocks("*://*/e/*")
    browser.on_each_page("navigator.sendBeacon = () => false")
    return browser


def goes(browser: Browser, world: World, minutes: int, page: str) -> str:
    """To a page at this time from now; the utk after it."""
    browser.is_at(minutes * MINUTE)
    browser.get(world.url(OFF, page))
    until(lambda: browser.execute_script("return !!window.__hsTracking && document.cookie.includes('__hssc')"), "the script runs")
    return browser.cookies()["hubspotutk"]


def sends_form(world: World, browsers: Callable[..., Browser], profile: str, email: str) -> None:
    browser = browsers(profile)
    browser.get(world.url(OFF, "form"))
    browser.settles()
    browser.find_element(By.NAME, "email").send_keys(email)
    browser.find_element(By.ID, "send").click()
    until(lambda: [form for form in world.forms() if form.email == email], "the form")
    browser.settles()
    browser.has_sent()
    browser.quit()


def opens_mail(world: World, browsers: Callable[..., Browser], profile: str) -> str:
    """Opens Ann's mail, and touches the page; the utk."""
    browser = browsers(profile)
    browser.get(world.tracked())
    browser.settles()
    browser.touch()
    utk = browser.cookies()["hubspotutk"]
    until(lambda: utk in [click.utk for click in world.clicks()], "the click comes back")
    browser.has_sent()
    browser.quit()
    return utk


def statuses(settings: Settings) -> list[tuple[str, str]]:
    return [(row.utk, row.status) for row in resolution_in_clickhouse(settings).links]


def resolution_of(published: list[Event]) -> Resolution:
    copies = defaultdict(list)
    for event in published:
        copies[event.event_id].append(event)
    return resolve_events([merge(each)[0] for each in copies.values()], Policy())
