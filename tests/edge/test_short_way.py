"""The short way of usual hits: answers like the long one, and leaves to it what is unusual, cut in pieces, or not to be decided at once."""

import re
import time
from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.settings import Settings
from tests.builders import utk
from tests.edge.requesting import answer, answered, connected, hits, request
from tests.edge.running import ORIGIN, OTHER, PERSON, SITE, Running, events


def test_it_answers_as_the_long_way_does(edge: Running, settings: Settings) -> None:
    """A body as the script sends it; with a member that the script does not send; in pieces; on a connection that ends."""
    person = {**PERSON, "Cookie": f"hubspotutk={utk('a')}"}
    whole = request(hits(), headers=person)
    cut = whole.index(b"\r\n\r\n") + 20
    ways = [
        answered(edge, [whole]),
        answered(edge, [request(hits(colour="red"), headers=person)]),
        answered(edge, [whole[:50], whole[50:]]),
        answered(edge, [whole[:cut], whole[cut : cut + 1], whole[cut + 1 :]]),
        answered(edge, [request(hits(), headers={**person, "Connection": "close"})]),
    ]
    assert ways[-1][1].pop("connection") == "close"
    assert ways == [ways[0]] * 5
    status, headers, body = ways[0]
    assert (status, body) == (202, {"accepted": 1, "refused": []})
    assert headers["set-cookie"].startswith(f"hubspotutk={utk('a')}; Domain=site.localhost")
    assert headers["access-control-allow-origin"] == ORIGIN
    found = events(settings)
    assert len(found) == 5
    assert len({event.event_id for event in found}) == 3, "pieces of one request have its events"


@pytest.mark.parametrize(
    ("body", "portal", "headers"),
    [
        (hits(), 404, PERSON),
        (hits(), SITE, {**PERSON, "Origin": "https://stranger.example"}),
        (hits(), SITE, {"User-Agent": PERSON["User-Agent"]}),
        (hits(url="https://stranger.example/"), SITE, PERSON),
        (hits(event_id="x"), SITE, PERSON),
        (hits(101), SITE, PERSON),
        (hits(), SITE, {**PERSON, "User-Agent": "curl/8.0"}),
        (hits(), SITE, {**PERSON, "Content-Encoding": "gzip"}),
        ([], SITE, PERSON),
        ({"hits": []}, SITE, PERSON),
    ],
)
def test_what_it_leaves_is_answered_as_ever(shared: Running, body: Any, portal: int, headers: Mapping[str, str]) -> None:
    """In one piece it is offered to the short way, in two it is not."""
    whole = request(body, portal, headers)
    assert answered(shared, [whole]) == answered(shared, [whole[:60], whole[60:]])


def test_limits_count_each_request_once(edge: Running) -> None:
    """As many as the portal allows (20 in a minute), then 429 on either way."""
    origin = "http://www.other.localhost"
    person = {**PERSON, "Origin": origin}
    statuses = []
    for _ in range(24):
        status, headers, body = answered(edge, [request(hits(url=f"{origin}/", consent={"analytics": True}), OTHER, person)])
        statuses.append(status)
        if status == 429:
            assert body == {"error": "too_many_requests"}
            assert 1 <= int(headers["retry-after"]) <= 60
            assert headers["access-control-allow-origin"] == origin
    allowed = statuses.index(429)
    assert allowed <= 20
    assert statuses.count(202) >= 20, "also if a new minute has begun in between"


def test_requests_that_come_together_are_answered_in_their_order(edge: Running, settings: Settings) -> None:
    """Two hits and a question in one write: each has its own answer, and both hits are in Kafka."""
    received = b""
    with connected(edge) as connection:
        connection.sendall(request(hits(1)) + request(hits(2)) + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while chunk := connection.recv(65_536):
            received += chunk
    assert re.findall(rb"\r\n\r\n(\{[^\r]*?\})(?:HTTP|$)", received) == [
        b'{"accepted":1,"refused":[]}',
        b'{"accepted":2,"refused":[]}',
        b'{"status":"alive"}',
    ]
    assert len(events(settings)) == 3


def test_a_connection_stays_as_long_as_something_is_asked_of_it(edge: Running) -> None:
    """It is closed some seconds after the last answer, not after the first."""
    with connected(edge) as connection:
        for _ in range(4):
            connection.sendall(request(hits()))
            assert answer(connection)[0] == 202
            time.sleep(2)
        began = time.monotonic()
        connection.sendall(b"\r\n")  # asks for nothing
        assert connection.recv(1) == b""
        assert 1 < time.monotonic() - began < 25, "closed by the server, not by this test"
