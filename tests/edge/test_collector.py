"""The collector on a real broker: what is accepted is in the topics, and what is not allowed is nowhere."""

import gzip
import json
import re
import signal
import socket
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
import requests

from pipeline.core.events import EmailClick, FormSubmission, Millis, PageView, PortalId
from pipeline.edge.core import links, sealing
from pipeline.settings import Settings
from tests.builders import utk
from tests.edge.running import (
    ASKING,
    ASKING_BY_CATEGORY,
    KEY,
    LETTING_OUT,
    NEW_KEY,
    NOTIFYING,
    ORIGIN,
    OTHER,
    OTHER_KEY,
    PERSON,
    SERVER_KEY,
    SITE,
    Running,
    events,
    raw_values,
    until,
)

PAGE = f"{ORIGIN}/a"
NONCE = bytes(12)


def now() -> int:
    return time.time_ns() // 1_000_000


def view(**fields: Any) -> dict[str, Any]:
    return {"type": "page_view", "event_id": str(uuid4()), "occurred_at": now(), "sent_at": now(), "url": PAGE} | fields


def link(url: str = PAGE, portal: int = SITE, key: str = KEY, ago: int = 60_000, life: int = 60_000) -> str:
    """The path of a link that was sent some time ago; negative `life`: it has expired."""
    told = links.Link("ann@x.io", "may", url, Millis(now() - ago), Millis(now() + life))
    return "/l/" + links.sealed_link([bytes.fromhex(key)], PortalId(portal), told, NONCE)


def test_accepted_hits_are_in_the_topics(edge: Running, settings: Settings) -> None:
    """One hit, a list, an envelope, gzip, text/plain: what 202 counts is in Kafka when the answer is there."""
    answers = [
        edge.post(view(utk=utk("a"))),
        edge.post([view(utk=utk("b")), view(url="https://evil.example/"), {"type": "dance"}, 7]),
        edge.post({"sent_at": now(), "hits": [view()]}),
        requests.post(
            f"{edge.at}/e/{SITE}",
            data=gzip.compress(json.dumps(view()).encode()),
            headers={**PERSON, "Content-Encoding": "gzip"},
            timeout=30,
        ),
    ]
    assert [answer.status_code for answer in answers] == [202] * 4
    assert answers[1].json() == {
        "accepted": 1,
        "refused": [
            {"position": 1, "reason": "foreign_url"},
            {"position": 2, "reason": "unknown_type"},
            {"position": 3, "reason": "not_an_object"},
        ],
    }
    found = events(settings)
    assert sorted(str(event.utk) for event in found) == sorted([utk("a"), utk("b"), "None", "None"])
    assert all(isinstance(event, PageView) and event.ip == "127.0.0.0" for event in found)
    assert edge.stop() == 0


def test_cors(edge: Running) -> None:
    """Pages of the portal read answers, errors too; a stranger's page, or none, gets nothing in."""
    for answer in (
        edge.post(view()),
        edge.post("no hits"),
        edge.post([view()] * 501),
        requests.options(f"{edge.at}/e/7", headers=PERSON, timeout=9),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert answer.headers["Vary"] == "Origin"
    for origin in (
        "https://evil.example",
        "null",
        "http://site.localhost.evil.example",
        f"{ORIGIN}/path",
        "http://x@www.site.localhost",
        "",
    ):
        answer = edge.post(view(), headers={**PERSON, "Origin": origin})
        assert answer.status_code == 403, origin
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert edge.form({"fields": []}, headers={**PERSON, "Origin": origin}).status_code == 403
    assert edge.post(view(), headers={"User-Agent": PERSON["User-Agent"]}).status_code == 403


@pytest.mark.parametrize(
    ("send", "status"),
    [
        (lambda edge: edge.post(view(), portal=404), 404),
        (lambda edge: edge.post(view(), portal=int("9" * 4_000)), 404),
        (lambda edge: edge.get(f"/t/{'9' * 5_000}.js"), 404),
        (lambda edge: requests.post(f"{edge.at}/e/7", data=b"{", headers=PERSON, timeout=30), 400),
        (lambda edge: requests.post(f"{edge.at}/e/7", data=b"x" * 600_000, headers=PERSON, timeout=30), 413),
        (lambda edge: requests.post(f"{edge.at}/e/7", data=iter([b"x" * 100_000] * 6), headers=PERSON, timeout=30), 413),
        (
            lambda edge: requests.post(
                f"{edge.at}/e/7", data=gzip.compress(b"0" * 400_000_000, 1), headers={**PERSON, "Content-Encoding": "gzip"}, timeout=30
            ),
            413,
        ),
        (lambda edge: requests.post(f"{edge.at}/e/7", data=b"x", headers={**PERSON, "Content-Encoding": "gzip"}, timeout=30), 400),
        (lambda edge: requests.post(f"{edge.at}/e/7", data=b"x", headers={**PERSON, "Content-Encoding": "br"}, timeout=30), 415),
        (lambda edge: edge.get("/l/forged"), 404),
        (lambda edge: edge.get("/e/7"), 405),
        (lambda edge: edge.get("/nowhere"), 404),
        (lambda edge: edge.get("/ready"), 200),
        (lambda edge: edge.get("/openapi.json"), 200),
    ],
)
def test_bounds(shared: Running, send: Any, status: int) -> None:
    """What is too much, too odd or not there has its status, and the process goes on."""
    assert send(shared).status_code == status


@pytest.fixture(scope="module")
def shared(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One collector for tests that publish nothing."""
    from tests.edge.running import running

    settings = Settings.model_validate(
        {"kafka": {"bootstrap_servers": servers.kafka.bootstrap_servers, "topic_prefix": f"test_{uuid4().hex[:12]}-"}}
    )
    with running(settings, tmp_path_factory.mktemp("edge")) as edge:
        yield edge


CANARIES = ("canary@x.io", "canary%40x.io", "Canary/9", "127.0.0.1", utk("canary"))
NO: dict[str, Any] = {"consent": {"analytics": False}}
SAID_NO: list[tuple[int, dict[str, Any], dict[str, str]]] = [
    *((portal, NO, {}) for portal in (SITE, NOTIFYING, ASKING, ASKING_BY_CATEGORY, LETTING_OUT)),
    *((portal, {}, {}) for portal in (ASKING, ASKING_BY_CATEGORY)),
    *((LETTING_OUT, {}, {signal: "1"}) for signal in ("Sec-GPC", "DNT")),
    (ASKING, {"consent": {"analytics": "true", "mode": "off"}, "mode": "off"}, {}),
]
"""Portal, what the hit says, what the request says: a no, silence that is one, the browser's objection, a claim that no mode allows."""


def canary_view(**more: Any) -> dict[str, Any]:
    """A page view with something personal wherever there is room for it."""
    return view(
        url=f"{PAGE}/canary@x.io?mail=canary%40x.io&utm_source=ok",
        referrer="http://www.site.localhost/?q=canary@x.io",
        title="canary@x.io",
        utk=utk("canary"),
        hstc=f"1.{utk('canary')}.1.1.1.1",
        properties={"mail": "canary@x.io", "messages_utk": utk("canary")},
        **more,
    )


def test_after_a_no_canaries_are_nowhere(edge: Running, settings: Settings) -> None:
    """In each consent mode, topics and logs are looked through byte by byte after hits without consent (the spool: test_kafka_away)."""
    person = {**PERSON, "User-Agent": "Mozilla/5.0 Canary/9", "Cookie": f"hubspotutk={utk('canary')}"}
    for portal, said, objection in SAID_NO:
        kinds = [{}, {"type": "identify", "email": "canary@x.io"}, {"type": "custom_event", "name": "bought"}, {"type": "email_click"}]
        told = edge.post([canary_view(**said) | kind for kind in kinds], portal, person | objection).json()
        refused = [(refusal["position"], refusal["reason"]) for refusal in told["refused"]]
        assert (told["accepted"], refused) == (2, [(1, "no_consent"), (3, "no_consent")]), (portal, said, objection)
    for portal in (ASKING, ASKING_BY_CATEGORY):
        assert edge.get(f"/e/{portal}.gif?url={PAGE}?mail=canary@x.io", person).status_code == 200
    assert edge.stop() == 0
    records = raw_values(settings)
    assert len(records) == 2 * len(SAID_NO) + 2
    files = [path for path in edge.directory.rglob("*") if path.is_file() and path.name != "portals.toml"]
    seen = b"\n".join([*records, *(path.read_bytes() for path in files)]).replace(edge.at.encode(), b"").replace(b"host=127.0.0.1", b"")
    servers = settings.kafka.bootstrap_servers.encode()
    assert [canary for canary in CANARIES if canary.encode() in seen.replace(servers, b"")] == []


def test_errors_and_logs_tell_nothing(edge: Running) -> None:
    """Refusals name positions and reasons; the log of a whole day of mistakes has no visitor in it."""
    person = {**PERSON, "User-Agent": "Canary/9"}
    answers = [
        edge.post([view(utk="canary@x.io"), view(event_id="canary@x.io"), {"type": "canary@x.io"}], headers=person),
        edge.form(
            {"fields": [{"name": "email", "value": "canary@"}], "context": {"hutk": "canary", "pageUri": "http://canary"}}, headers=person
        ),
        edge.post(view(), headers={**person, "Origin": "http://canary.example"}),
        edge.get("/l/canary@x.io", person),
        edge.get("/canary@x.io", person),
    ]
    text = " ".join(answer.text for answer in answers) + edge.log
    assert "canary" not in text.lower()


def test_forms(edge: Running, settings: Settings) -> None:
    """JSON and HTML forms are one submission each, also when they are sent again; thanks are where the portal says."""
    body = {"fields": [{"name": "email", "value": "Ann@x.io"}], "context": {"hutk": utk("a"), "pageUri": PAGE}}
    again = {**PERSON, "Idempotency-Key": "once"}
    assert [edge.form(body, headers=again).status_code for _ in range(2)] == [202, 202]
    html = {"email": "bob@x.io", "_hsutk": utk("b"), "_hspage": PAGE, "redirect": "https://evil.example/"}
    for parts in ({"data": html}, {"data": html, "files": {"cv": ("cv.pdf", b"%PDF")}}):
        thanked = requests.post(f"{edge.at}/forms/7/contact", **parts, headers=PERSON, allow_redirects=False, timeout=30)
        assert (thanked.status_code, thanked.headers["Location"]) == (303, "http://www.site.localhost/thanks")
    found = events(settings)
    submissions = [event for event in found if isinstance(event, FormSubmission)]
    assert len(found) == len(submissions) == 4
    assert len({event.event_id for event in submissions}) == 3
    assert {(event.email, event.utk) for event in submissions} == {("ann@x.io", utk("a")), ("bob@x.io", utk("b"))}
    wrong = edge.form({"fields": [{"name": "email", "value": "ann"}], "context": {"hutk": "x"}})
    assert wrong.status_code == 400
    assert [error["errorType"] for error in wrong.json()["errors"]] == ["INVALID_EMAIL", "INVALID_HUTK"]


def test_the_servers_word_for_an_address(edge: Running, settings: Settings) -> None:
    """context.ipAddress counts with the server key alone."""
    body = {"fields": [{"name": "email", "value": "ann@x.io"}], "context": {"ipAddress": "198.51.100.9"}}
    server = {"User-Agent": "site/1", "Authorization": f"Bearer {SERVER_KEY}"}
    assert edge.form(body, headers=server).status_code == 202
    assert edge.form(body, headers={**server, "Authorization": "Bearer guess"}).status_code == 202
    assert sorted(event.ip or "" for event in events(settings) if isinstance(event, FormSubmission)) == ["127.0.0.0", "198.51.100.0"]


def landing(answer: requests.Response) -> str | None:
    """The sealed click in a redirect."""
    assert answer.status_code == 302
    return parse_qs(urlsplit(answer.headers["Location"]).query).get("_hsc", [None])[0]


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
    ]
    click = sealing.sealed([bytes.fromhex(KEY)], sealing.CLICK, PortalId(SITE), b"\x90", NONCE)
    for path in [*tries, "/l/" + click]:
        answer = edge.get(path)
        assert answer.status_code == 404, path
        assert "Location" not in answer.headers
        assert "Set-Cookie" not in answer.headers
    assert edge.get(link(portal=OTHER, key=OTHER_KEY, url="http://www.other.localhost/")).status_code == 302


def test_rate_limits(edge: Running) -> None:
    """The portal's own number of requests of one address in a minute; then 429 with a time to come again."""
    page = "http://www.other.localhost/"
    statuses = [edge.get(f"/e/{OTHER}.gif?url={page}").status_code for _ in range(21)]
    assert statuses[:19] == [200] * 19
    refused = edge.post(view(url=page), OTHER, {**PERSON, "Origin": "http://www.other.localhost"})
    assert refused.status_code == 429 or 200 in statuses[20:]  # the minute may have turned in between
    if refused.status_code == 429:
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.headers["Access-Control-Allow-Origin"] == "http://www.other.localhost"
    assert edge.post(view()).status_code == 202


def test_portals_are_read_again(edge: Running) -> None:
    """SIGHUP: new portals from then on; a wrong file is named in the log, and changes nothing."""
    file = edge.directory / "portals.toml"
    file.write_text(file.read_text().replace("id = 9", "id = 10"))
    edge.send(signal.SIGHUP)
    until(lambda: edge.post(view(), 9).status_code == 404, "portal 9 is gone")
    file.write_text("[[portals]]\nid = 0\n")
    edge.send(signal.SIGHUP)
    until(lambda: "the portals stay as they were" in edge.log, "the mistake is in the log")
    assert re.search(r"portals\.0\.id = 0: input should be greater than", edge.log)
    assert edge.post(view()).status_code == 202


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


def carried(edge: Running, **more: Any) -> str:
    """The token with which visitor `a` goes to another domain of the portal."""
    token = edge.post({"type": "carry", "utk": utk("a")} | more).json()["token"]
    assert isinstance(token, str)
    return token


def adopted(edge: Running, token: Any, **options: Any) -> Any:
    """The visitor that a page gets for a token."""
    return edge.post({"type": "adopt", "token": token}, **options).json()["utk"]


def test_the_one_answer_that_holds_a_utk(edge: Running, settings: Settings) -> None:
    """`adopt` gives it for a sealed token alone, to a page of the portal, uncached and without a cookie; the log has it nowhere."""
    token = carried(edge)
    assert utk("a") not in token
    answer = edge.post({"type": "adopt", "token": token}, headers=PERSON | {"Cookie": f"hubspotutk={utk('victim')}"})
    assert answer.json() == {"utk": utk("a")}
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in answer.headers
    stranger = edge.post({"type": "adopt", "token": token}, headers={**PERSON, "Origin": "https://evil.example"})
    assert (stranger.status_code, utk("a") in stranger.text) == (403, False)
    assert adopted(edge, token, portal=ASKING) is None
    sealed_link, sealed_click = link().removeprefix("/l/"), landing(edge.get(link()))
    tries: list[Any] = [sealed_link, sealed_click, token[:-2], utk("a"), "", None, {}]
    assert [adopted(edge, forged) for forged in tries] == [None] * len(tries)
    refused = edge.post({"type": "carry", "utk": utk("a")}, ASKING)
    assert refused.json() == {"token": None}, "no consent"
    assert edge.stop() == 0
    assert utk("a") not in edge.log + token
    assert not any(utk("a").encode() in record for record in raw_values(settings))


def test_several_processes_share_the_port(settings: Settings, tmp_path: Any) -> None:
    """Each hit is accepted once, whichever process has the connection; one signal ends all."""
    from tests.edge.running import running

    with running(settings, tmp_path, command=("edge", "--processes", "2")) as edge:
        until(lambda: edge.log.count("listening") == 2, f"both listen: {edge.log}")
        assert [edge.post(view()).status_code for _ in range(20)] == [202] * 20
        assert edge.stop() == 0
    assert len(events(settings)) == 20


def test_the_script_is_cached(shared: Running) -> None:
    """Five minutes, then asked again by its ETag; no cookie comes with it."""
    for path in (f"/t/{SITE}.js", f"/t/{SITE}/banner.js"):
        served = shared.get(path)
        assert (served.status_code, served.headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
        assert "max-age=300" in served.headers["Cache-Control"]
        assert "Set-Cookie" not in served.headers
        again = shared.get(path, {"If-None-Match": served.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert shared.get("/t/404.js").status_code == 404


def test_the_cookie_is_renewed_but_never_revived(edge: Running) -> None:
    """A collector on the site's domain gives a consented view's cookie its full life; never to one that is gone."""
    at = {**PERSON, "Host": f"t.site.localhost:{edge.port}", "Cookie": f"hubspotutk={utk('a')}"}
    renewed = edge.post(view(utk=utk("a")), headers=at).headers["Set-Cookie"]
    assert renewed == f"hubspotutk={utk('a')}; Domain=site.localhost; Path=/; Max-Age=15552000; SameSite=Lax"
    yes = {"consent": {"analytics": True}}
    assert "Set-Cookie" in edge.post(view(utk=utk("a"), **yes), ASKING, at).headers
    for portal, hit, headers in (
        (SITE, view(utk=utk("b")), at),
        (SITE, view(utk=utk("a")), {**at, "Cookie": ""}),
        (SITE, view(utk=utk("a")), {**at, "Host": "t.collector.example"}),
        (SITE, {"type": "custom_event", "event_id": str(uuid4()), "name": "n", "utk": utk("a")}, at),
        (ASKING, view(utk=utk("a")), at),
    ):
        answer = edge.post(hit, portal, headers)
        assert answer.status_code == 202
        assert "Set-Cookie" not in answer.headers


def test_the_short_ways_answer_as_the_long_ones_do(edge: Running, settings: Settings) -> None:
    """A body as the script sends it, the same with an unknown member, each also on a connection that ends: one answer."""
    at = {**PERSON, "Host": f"t.site.localhost:{edge.port}", "Cookie": f"hubspotutk={utk('a')}"}
    told = []
    for closing in ({}, {"Connection": "close"}):
        for more in ({}, {"colour": "red"}):
            hit = view(utk=utk("a")) | more
            sent_at = hit.pop("sent_at")
            answer = edge.post({"sent_at": sent_at, "hits": [hit]}, SITE, {**at, **closing})
            headers = {name.lower(): value for name, value in answer.headers.items()}
            assert headers.pop("connection", None) == ("close" if closing else None)
            headers.pop("date")
            told.append((answer.status_code, answer.json(), headers))
    assert told == [told[0]] * 4
    assert told[0][0] == 202
    assert told[0][2]["set-cookie"].startswith(f"hubspotutk={utk('a')}; Domain=site.localhost")
    assert told[0][2]["access-control-allow-origin"] == ORIGIN
    assert len(events(settings)) == 4


def test_requests_that_come_together_are_answered_in_their_order(edge: Running, settings: Settings) -> None:
    """Two hits and a question in one write: each has its own answer, and both hits are in Kafka."""
    head = "".join(f"{name}: {value}\r\n" for name, value in {**PERSON, "Host": "t.site.localhost"}.items())
    text = ""
    for count in (1, 2):
        hits = [view(utk=utk("a")) for _ in range(count)]
        body = json.dumps({"sent_at": hits[0]["sent_at"], "hits": [{k: v for k, v in hit.items() if k != "sent_at"} for hit in hits]})
        text += f"POST /e/{SITE} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
    text += f"GET /health HTTP/1.1\r\n{head}Connection: close\r\n\r\n"
    received = b""
    with socket.create_connection(("127.0.0.1", edge.port), timeout=30) as connection:
        connection.sendall(text.encode())
        while chunk := connection.recv(65_536):
            received += chunk
    assert re.findall(rb"\r\n\r\n(\{[^\r]*?\})(?:HTTP|$)", received) == [
        b'{"accepted":1,"refused":[]}',
        b'{"accepted":2,"refused":[]}',
        b'{"status":"alive"}',
    ]
    assert len(events(settings)) == 3
