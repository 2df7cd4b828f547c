"""Tracked links: who clicked binds, robots bind nothing, and nobody is led astray."""

import signal

import requests

from pipeline.core.events import EmailClick, PortalId
from pipeline.edge.core import sealing
from pipeline.settings import Settings
from tests.builders import utk
from tests.edge.requesting import NONCE, PAGE, adopted, carried, landing, link
from tests.edge.running import ASKING, KEY, NEW_KEY, OTHER, OTHER_KEY, PERSON, SITE, Running, events
from tests.waiting import until


def test_a_tracked_link(edge: Running, settings: Settings) -> None:
    """The click is published at once without a cookie, and as itself with the first cookie that comes back; no second one."""
    sealed = landing(edge.get(link()))
    back = {"type": "email_click", "click": sealed}
    assert edge.post(back | {"utk": utk("first")}).json()["accepted"] == 1
    assert edge.post(back | {"utk": utk("first")}).json()["accepted"] == 1
    assert edge.post(back | {"utk": utk("second")}).json()["refused"] == [{"position": 0, "reason": "invalid_click"}]
    clicks = [event for event in events(settings) if isinstance(event, EmailClick)]
    assert {event.utk for event in clicks} == {None, utk("first")}
    assert len({event.event_id for event in clicks}) == 1
    assert {(event.recipient_email, event.send_id, event.url, event.bot) for event in clicks} == {("ann@x.io", "may", PAGE, False)}


def test_who_clicked(edge: Running, settings: Settings) -> None:
    """The click tells of address and browser where the portal need not ask; where it must, the link's host knows of no answer."""
    for portal in (SITE, ASKING):
        assert edge.get(link(portal=portal)).status_code == 302
    clicks = {event.portal_id: event for event in events(settings) if isinstance(event, EmailClick)}
    assert (clicks[PortalId(SITE)].ip, clicks[PortalId(SITE)].user_agent) == ("127.0.0.0", PERSON["User-Agent"])
    assert (clicks[PortalId(ASKING)].ip, clicks[PortalId(ASKING)].user_agent) == (None, None)


def test_scanners_bind_nothing(edge: Running, settings: Settings) -> None:
    """HEAD and prefetch publish nothing; haste and robots publish a click that says so."""
    assert edge.get("/l/" + link().partition("/l/")[2], {**PERSON, "Sec-Purpose": "prefetch;prerender"}).status_code == 425
    assert requests.head(edge.at + link(), headers=PERSON, timeout=30).status_code == 302
    assert edge.get(f"/e/7.gif?url={PAGE}", {**PERSON, "Sec-Purpose": "prefetch"}).status_code == 200
    assert events(settings) == []
    assert edge.get(link(ago=500)).status_code == 302
    assert edge.get(link(), {"User-Agent": "curl/8.0"}).status_code == 302
    assert edge.get(link(), {"User-Agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}).status_code == 302
    assert [event.bot for event in events(settings) if isinstance(event, EmailClick)] == [True] * 3


def test_no_open_redirect(edge: Running) -> None:
    """Only an authentic token of a known portal leads anywhere; an expired one without _hsc, and never with _hsc off the domains."""
    token = link().removeprefix("/l/")
    assert landing(edge.get(link(life=-1))) is None
    assert edge.get(link("https://partner.example/x")).headers["Location"] == "https://partner.example/x"
    other = link(portal=OTHER, key=KEY)
    tries = [
        other,
        link(key=OTHER_KEY),
        "/l/" + token[:-2],
        "/l/" + token[::-1],
        "/l/https://evil.example",
        "/l//evil.example",
        "/l/%0d%0aSet-Cookie:x=1",
        "/l/" + token + "/",
        "/health/",
        f"/t/{SITE}.js/",
        "//evil.example/health",
        "/l/?url=https://evil.example/",
    ]
    click = sealing.sealed([bytes.fromhex(KEY)], sealing.CLICK, PortalId(SITE), b"\x90", NONCE)
    for path in [*tries, "/l/" + click]:
        answer = edge.get(path, {**PERSON, "Host": "evil.example"})
        assert answer.status_code == 404, path
        assert "Location" not in answer.headers
        assert "Set-Cookie" not in answer.headers
    assert edge.get(link(portal=OTHER, key=OTHER_KEY, url="http://www.other.localhost/")).status_code == 302


def test_keys_are_rotated(edge: Running) -> None:
    """A new key before the old one: links of both lead on. The old one taken out: its links are none, clicks and visitors neither."""
    file = edge.directory / "portals.toml"
    stated = file.read_text()
    old, new = link(), link(key=NEW_KEY)
    click, token = landing(edge.get(old)), carried(edge)
    assert edge.get(new).status_code == 404
    file.write_text(stated.replace('"env:EDGE_KEY"', '"env:EDGE_NEW_KEY", "env:EDGE_KEY"'))
    edge.send(signal.SIGHUP)
    until(lambda: edge.get(new).status_code == 302, "the new key is known")
    assert edge.get(old).status_code == 302
    assert adopted(edge, token) == utk("a")
    file.write_text(stated.replace('"env:EDGE_KEY"', '"env:EDGE_NEW_KEY"'))
    edge.send(signal.SIGHUP)
    until(lambda: edge.get(old).status_code == 404, "the old key is gone")
    assert edge.get(new).status_code == 302
    assert adopted(edge, token) is None
    back = edge.post({"type": "email_click", "click": click, "utk": utk("a")})
    assert back.json()["refused"] == [{"position": 0, "reason": "invalid_click"}]
