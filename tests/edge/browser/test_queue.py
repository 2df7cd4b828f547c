"""What waits in the browser: it is bounded, packed, and nothing is lost of it that could be sent."""

import time

import pytest

from tests.edge.browser.driving import NO_HOST, OFF, Browser, World
from tests.edge.browser.pushing import REQUESTS, custom, event, offline, push
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


def test_a_reset_loses_nothing(world: World, page: Browser) -> None:
    """What the visitor before did, and could not be sent yet, is sent after resetVisitorIdentity, too."""
    page.get(world.url(OFF))
    (view,) = world.has_views(1)
    offline(page, True)
    push(page, event(world, "before"), ["resetVisitorIdentity"])
    offline(page, False)
    push(page, event(world, "after"))
    assert [each.utk for each in custom(world, "before")] == [view.utk]
    assert [each.utk for each in custom(world, "after")] == [page.cookies()["hubspotutk"]]


def test_hits_that_cannot_be_sent(world: World, page: Browser) -> None:
    """An object that is no JSON is refused alone; what the page changes later is not changed in the hit."""
    page.get(world.url(OFF))
    world.has_views(1)
    offline(page, True)
    page.execute_script(
        "const loop = {}; loop.loop = loop; const live = {n: 1};"
        "_hsq.push(['identify', {email: 'ann@x.io', loop}], ['trackCustomBehavioralEvent', {name: 'loop', properties: loop}],"
        "['trackCustomBehavioralEvent', {name: 'big', properties: {n: 1n}}],"
        "['trackCustomBehavioralEvent', {name: arguments[0], properties: live}]); live.n = 2",
        f"live {world.visit}",
    )
    offline(page, False)
    push(page, event(world, "after"))
    custom(world, "after")
    assert [each.properties for each in custom(world, "live")] == ['{"n":1}']


def test_packs(world: World, page: Browser) -> None:
    """At most 60 KB are in flight, by their bytes; what is larger alone goes without keepalive; all of it arrives."""
    page.on_each_page(REQUESTS)
    page.get(world.url(OFF))
    world.has_views(1)
    page.has_sent()
    offline(page, True)
    push(page, *(event(world, "pack", text="ä" * 700) for _ in range(80)), event(world, "pack", text="b" * 70_000), event(world, "pack"))
    page.execute_script("asked.length = 0")
    offline(page, False)
    push(page, event(world, "pack"))
    custom(world, "pack", 83)
    until(lambda: page.execute_script("return localStorage.getItem('__hsqueue1')") == "[]", "all answered")
    sent = [(len(body.encode()), keepalive) for _, body, keepalive in page.execute_script("return asked") if body != "beacon"]
    assert [keepalive for size, keepalive in sent] == [size <= 60_000 for size, keepalive in sent]
    assert [size for size, keepalive in sent if keepalive and size > 55_000], "packs are filled"
    assert sum(not keepalive for _, keepalive in sent) >= 1


def test_what_waits_is_bounded(world: World, page: Browser) -> None:
    """200 hits, a day, and a million characters of the site's storage; and one timer for the next try, however often it failed."""
    page.on_each_page(
        "window.timers = new Set(); const [set, clear] = [setTimeout, clearTimeout];"
        "window.setTimeout = (work, ms) => { const id = set(() => { timers.delete(id); work(); }, ms);"
        " if (ms === 10000) timers.add(id); return id; };"
        "window.clearTimeout = (id) => { timers.delete(id); clear(id); };"
    )
    old = {"event_id": "old", "occurred_at": int(time.time() * 1000) - 86_400_001}
    key = f"__hsqueue{NO_HOST}"
    page.get(world.url(NO_HOST))
    page.execute_script("localStorage.setItem(arguments[0], JSON.stringify([arguments[1]]))", key, old)
    kept = "return JSON.parse(localStorage.getItem(arguments[0])).map((hit) => hit.properties && hit.properties.n)"
    push(page, event(world, "one"))
    assert "old" not in page.execute_script("return localStorage.getItem(arguments[0])", key)
    for start in range(0, 210, 30):
        push(page, *(event(world, "many", n=n) for n in range(start, start + 30)))
        page.execute_async_script("setTimeout(arguments[0], 100)")
    assert page.execute_script(kept, key) == list(range(10, 210))
    assert page.execute_script("return timers.size") <= 1
    push(page, *(event(world, "large", n=n, text="x" * 300_000) for n in range(5)))
    assert page.execute_script("return localStorage.getItem(arguments[0]).length", key) < 1_010_000
    assert page.execute_script(kept, key)[-3:] == [2, 3, 4]
