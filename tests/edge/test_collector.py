"""The collector on a real broker: what is accepted is in the topics, and what is not allowed is nowhere."""

import gzip
import json
import re
import signal
from typing import Any
from uuid import uuid4

import pytest
import requests

from pipeline.core.events import FormSubmission, PageView
from pipeline.settings import Settings
from tests.builders import utk
from tests.edge.requesting import PAGE, now, view
from tests.edge.running import ORIGIN, OTHER, PERSON, SERVER_KEY, SITE, Running, events, running
from tests.waiting import until


def test_accepted_hits_are_in_the_topics(edge: Running, settings: Settings) -> None:
    """One hit, a list, an envelope, gzip, text/plain: what 202 counts is in Kafka when the answer is there.

    What a stranger says of the address that it comes from is not believed.
    """
    answers = [
        edge.post(view(utk=utk("a")), headers={**PERSON, "X-Forwarded-For": "198.51.100.9"}),
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
                f"{edge.at}/e/7", data=gzip.compress(b"0" * 4_000_000), headers={**PERSON, "Content-Encoding": "gzip"}, timeout=30
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


def test_forms(edge: Running, settings: Settings) -> None:
    """JSON and HTML forms are one submission each, also when they are sent again; thanks are where the portal says."""
    body = {"fields": [{"name": "email", "value": "Ann@x.io"}], "context": {"hutk": utk("a"), "pageUri": PAGE}}
    again = {**PERSON, "Idempotency-Key": "once"}
    assert [edge.form(body, headers=again).status_code for _ in range(2)] == [202, 202]
    html = {"email": "bob@x.io", "_hsutk": utk("b"), "_hspage": PAGE, "redirect": "https://evil.example/"}
    for parts in ({"data": html}, {"data": html, "files": {"cv": ("cv.pdf", b"%PDF")}}):
        thanked = requests.post(f"{edge.at}/forms/7/contact", **parts, headers=PERSON, allow_redirects=False, timeout=30)
        assert (thanked.status_code, thanked.headers["Location"]) == (303, "http://www.site.localhost/thanks")
    offered = requests.post(f"{edge.at}/forms/7/offer", data=html, headers=PERSON, allow_redirects=False, timeout=30)
    assert offered.headers["Location"] == "http://www.shop.localhost/offer"
    unthanked = requests.post(f"{edge.at}/forms/{OTHER}/contact", data={"email": "bob@x.io"}, allow_redirects=False, timeout=30)
    assert (unthanked.status_code, "Thank you" in unthanked.text) == (200, True)
    found = [event for event in events(settings) if event.portal_id == SITE]
    submissions = [event for event in found if isinstance(event, FormSubmission)]
    assert len(found) == len(submissions) == 5
    assert len({event.event_id for event in submissions}) == 4
    assert {(event.email, event.utk) for event in submissions} == {("ann@x.io", utk("a")), ("bob@x.io", utk("b"))}
    wrong = edge.form({"fields": [{"name": "email", "value": "ann"}], "context": {"hutk": "x"}})
    assert wrong.status_code == 400
    assert [error["errorType"] for error in wrong.json()["errors"]] == ["INVALID_EMAIL", "INVALID_HUTK"]


def test_pages_without_scripts(edge: Running, settings: Settings) -> None:
    """The picture counts a page, and believes no address that says whose it is."""
    claims = f"utk={utk('canary')}&hutk={utk('canary')}&email=canary@x.io&id=canary&event_id={uuid4()}&properties=canary"
    headers = {**PERSON, "Cookie": f"hubspotutk={utk('canary')}"}
    shown = edge.get(f"/e/{SITE}.gif?url={PAGE}&title=A&{claims}", headers)
    assert (shown.status_code, shown.content[:6], "Set-Cookie" in shown.headers) == (200, b"GIF89a", False)
    (event,) = events(settings)
    assert isinstance(event, PageView)
    assert (event.url, event.title, event.utk) == (PAGE, "A", None)
    assert "canary" not in repr(event)
    assert utk("canary") not in repr(event)


def test_the_servers_word_for_an_address(edge: Running, settings: Settings) -> None:
    """context.ipAddress counts with the server key alone."""
    body = {"fields": [{"name": "email", "value": "ann@x.io"}], "context": {"ipAddress": "198.51.100.9"}}
    server = {"User-Agent": "site/1", "Authorization": f"Bearer {SERVER_KEY}"}
    assert edge.form(body, headers=server).status_code == 202
    assert edge.form(body, headers={**server, "Authorization": "Bearer guess"}).status_code == 202
    assert sorted(event.ip or "" for event in events(settings) if isinstance(event, FormSubmission)) == ["127.0.0.0", "198.51.100.0"]


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


def test_several_processes_share_the_port(settings: Settings, tmp_path: Any) -> None:
    """Each hit is accepted once, whichever process has the connection; one signal ends all."""
    with running(settings, tmp_path, command=("edge", "--processes", "2")) as edge:
        until(lambda: edge.log.count("listening") == 2, lambda: f"both listen: {edge.log}")
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
