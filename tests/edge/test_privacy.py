"""What the collector does not keep and does not tell: nothing after a no, no visitor in logs and errors, no cookie but where it belongs."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import requests

from pipeline.settings import Settings
from tests.builders import utk
from tests.edge.requesting import CANARIES, NO, PAGE, THROUGH_A_PROXY, adopted, canary_form, canary_view, carried, landing, link, view
from tests.edge.running import ASKING, ASKING_BY_CATEGORY, LETTING_OUT, NOTIFYING, PERSON, SITE, Running, raw_values, running

SAID_NO: list[tuple[int, dict[str, Any], dict[str, str]]] = [
    *((portal, NO, {}) for portal in (SITE, NOTIFYING, ASKING, ASKING_BY_CATEGORY, LETTING_OUT)),
    *((portal, {}, {}) for portal in (ASKING, ASKING_BY_CATEGORY)),
    *((LETTING_OUT, {}, {signal: "1"}) for signal in ("Sec-GPC", "DNT")),
    (ASKING, {"consent": {"analytics": "true", "mode": "off"}, "mode": "off"}, {}),
]
"""Portal, what the hit says, what the request says: a no, silence that is one, the browser's objection, a claim that no mode allows."""


KINDS: list[dict[str, Any]] = [
    {},
    {"type": "identify", "email": "canary@x.io"},
    {"type": "custom_event", "name": "bought"},
    {"type": "email_click"},
    {"type": "form_submission", "form_id": "f", "email": "sender@x.io", "page_url": f"{PAGE}/canary@x.io?mail=canary@x.io"},
]


def test_after_a_no_canaries_are_nowhere(settings: Settings, tmp_path: Path) -> None:
    """In each consent mode, topics and logs are looked through byte by byte after hits and forms without consent.

    Who sends comes through a proxy of ours; no part of the address is kept either (the spool, and who comes directly: test_kafka_away).
    """
    person = {**PERSON, "User-Agent": "Mozilla/5.0 Canary/9", "Cookie": f"hubspotutk={utk('canary')}", **THROUGH_A_PROXY}
    with running(settings, tmp_path, environment={"PIPELINE_EDGE__TRUSTED_PROXIES": "127.0.0.1"}) as edge:
        for portal, said, objection in SAID_NO:
            told = edge.post([canary_view(**said) | kind for kind in KINDS], portal, person | objection).json()
            refused = [(refusal["position"], refusal["reason"]) for refusal in told["refused"]]
            assert (told["accepted"], refused) == (3, [(1, "no_consent"), (3, "no_consent")]), (portal, said, objection)
            assert edge.form(canary_form(said), portal, headers=person | objection).status_code == 202
            assert html_form(edge, portal, said, person | objection).status_code in (200, 303)
        for portal in (ASKING, ASKING_BY_CATEGORY):
            assert edge.get(f"/e/{portal}.gif?url={PAGE}?mail=canary@x.io", person).status_code == 200
        assert edge.stop() == 0
    records = raw_values(settings)
    assert len(records) == 5 * len(SAID_NO) + 2
    assert b"".join(records).count(b"sender@x.io") > 3 * len(SAID_NO)
    files = [path for path in edge.directory.rglob("*") if path.is_file() and path.name != "portals.toml"]
    seen = b"\n".join([*records, *(path.read_bytes() for path in files)]).replace(edge.at.encode(), b"").replace(b"host=127.0.0.1", b"")
    servers = settings.kafka.bootstrap_servers.encode()
    assert [canary for canary in CANARIES if canary.encode() in seen.replace(servers, b"")] == []


def html_form(edge: Running, portal: int, said: dict[str, Any], headers: dict[str, str]) -> requests.Response:
    """A form that posts to the collector, with the script's inputs; the page told of is the one that the browser names."""
    inputs = {"email": "sender@x.io", "_hsutk": utk("canary")} | ({"_hsconsent": "0"} if said == NO else {})
    referrer = {"Referer": f"{PAGE}/canary@x.io?mail=canary@x.io"}
    return requests.post(f"{edge.at}/forms/{portal}/contact", data=inputs, headers=headers | referrer, allow_redirects=False, timeout=30)


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
