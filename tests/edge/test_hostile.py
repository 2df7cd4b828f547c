"""Clients that are slow, many, or mad: no answer is a 5xx, memory is bounded, and everybody else is served meanwhile."""

import gzip
import json
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edge.deciding import hit_like, json_values
from tests.edge.requesting import view
from tests.edge.running import ORIGIN, PERSON, SITE, Running

CONNECTIONS = 10_000
MEMORY = 400 << 20


def resident(edge: Running) -> int:
    """Bytes of memory that the collector's process has."""
    assert edge.process is not None
    return int(Path(f"/proc/{edge.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_slow_client(shared: Running) -> None:
    """A head or a body that trickles is cut off in seconds; a head without end by its size."""
    half_head = socket.create_connection(("127.0.0.1", shared.port))
    half_head.sendall(b"POST /e/7 HTTP/1.1\r\nHost: x\r\n")
    half_body = socket.create_connection(("127.0.0.1", shared.port))
    half_body.sendall(f"POST /e/7 HTTP/1.1\r\nHost: x\r\nOrigin: {ORIGIN}\r\nContent-Length: 100\r\n\r\n[".encode())
    assert shared.post([], headers=PERSON).status_code == 202
    for each in (half_head, half_body):
        each.settimeout(60)
        answer = b""
        while received := each.recv(4096):
            answer += received
            if b"too_slow" in answer:
                break
        assert answer == b"" if each is half_head else b" 408 " in answer
        each.close()


def test_a_head_without_end(shared: Running) -> None:
    """Closed after 64 KB, whatever it promises."""
    endless = socket.create_connection(("127.0.0.1", shared.port))
    endless.settimeout(60)
    endless.sendall(b"GET /health HTTP/1.1\r\nX-Long: ")
    with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe, as the moment has it
        endless.sendall(b"x" * (64 << 20))
    endless.close()


def test_ten_thousand_connections(shared: Running) -> None:
    """They cost memory within bounds, and hits of others are answered."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < CONNECTIONS + 500:
        pytest.skip(f"this user may open {most} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    idle: list[socket.socket] = []
    try:
        idle.extend(socket.create_connection(("127.0.0.1", shared.port), timeout=30) for _ in range(CONNECTIONS))
        assert shared.post([], headers=PERSON).status_code == 202
        assert resident(shared) < MEMORY
    finally:
        for each in idle:
            each.close()


def test_bombs_cost_no_memory(shared: Running) -> None:
    """Fifty bodies that would be 400 MB each."""
    bomb = gzip.compress(gzip.compress(b"0" * 100, 9) + b"0" * 40_000_000, 9)
    headers = {**PERSON, "Content-Encoding": "gzip"}
    assert {requests.post(f"{shared.at}/e/7", data=bomb, headers=headers, timeout=30).status_code for _ in range(50)} == {413}
    assert resident(shared) < MEMORY


def test_long_texts_are_not_remembered(shared: Running) -> None:
    """What is looked up when it comes again (hosts, addresses, cookies) is short; hundreds of requests with a long one leave nothing."""
    before = resident(shared)
    for number in range(250):
        long = f"{number:x}" + "a" * 300_000
        host = {"url": f"http://{long}.site.localhost/"}
        page = {"url": f"http://www.site.localhost/?{long}", "referrer": f"http://{long}/?{long[:90_000]}", "utk": long[:50_000]}
        for wrong in (host, page):
            body = {"sent_at": None, "hits": [{name: value for name, value in (view() | wrong).items() if name != "sent_at"}]}
            assert shared.post(body).status_code in (202, 413)
    assert resident(shared) - before < 50_000_000


fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@fuzz
@given(body=st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_body_is_a_5xx(shared: Running, body: bytes) -> None:
    """Whatever is posted, to hits and to forms of either kind, is an answer of the table, and the right media type is believed."""
    for path in (f"/e/{SITE}", f"/forms/{SITE}/contact"):
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            answer = requests.post(shared.at + path, data=body, headers={**PERSON, "Content-Type": kind}, timeout=30, allow_redirects=False)
            assert answer.status_code in (202, 303, 400, 413), (path, kind, answer.text)


@st.composite
def nearly_json(draw: st.DrawFn) -> bytes:
    """JSON as a sender gets it wrong: cut short, with bytes changed, put in or said twice, or nested without end."""
    whole = json.dumps(
        draw(st.sampled_from([{"hits": [view(utk="0" * 32)]}, {"fields": [{"name": "email", "value": "ann@x.io"}]}]))
    ).encode()
    at = draw(st.integers(0, len(whole)))
    wrong = draw(
        st.sampled_from(
            [b"", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\u12", b'"', b"[" * 5_000, b"{" * 5_000, b"NaN", b"1e999", b"-", b"\xef\xbb\xbf"]
        )
    )
    return whole[:at] + wrong + whole[at + draw(st.integers(0, 40)) :]


@pytest.mark.timeout(600)
@settings(fuzz, max_examples=500)
@given(body=nearly_json(), is_form=st.booleans())
def test_malformed_json_in_500_forms(shared: Running, connection: requests.Session, body: bytes, is_form: bool) -> None:
    """Each is answered by what it is: not JSON, or JSON of which something is right or wrong; the connection stays in step."""
    path = f"/forms/{SITE}/contact" if is_form else f"/e/{SITE}"
    answer = connection.post(shared.at + path, data=body, headers={**PERSON, "Content-Type": "application/json"}, timeout=30)
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        assert (answer.status_code, answer.json()) == (400, {"error": "malformed_json"})
    else:
        assert answer.status_code in (202, 400)
        assert answer.json() != {"error": "malformed_json"}


@pytest.fixture(scope="module")
def connection() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@fuzz
@given(hits=st.lists(hit_like.map(lambda hit: view() | hit), max_size=5), sent_at=json_values)
def test_no_hit_is_a_5xx(shared: Running, hits: list[object], sent_at: object) -> None:
    """Every hit is accepted or refused, and the two add up."""
    body = json.dumps({"hits": hits, "sent_at": sent_at}).encode("utf-8", "surrogatepass")
    answer = requests.post(f"{shared.at}/e/{SITE}", data=body, headers=PERSON, timeout=30)
    assert answer.status_code in (202, 400)
    if answer.status_code == 202:
        assert answer.json()["accepted"] + len(answer.json()["refused"]) == len(hits)


@fuzz
@given(
    name=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40),
    value=st.text(st.characters(max_codepoint=255), max_size=200),
)
def test_no_header_is_a_5xx_or_comes_back(shared: Running, name: str, value: str) -> None:
    """Hostile Origin, cookie, forwarding, key and user agent: refused or ignored, and never part of the answer's head."""
    clean = "".join(character for character in value if character not in "\r\n\x00")
    for header in ("Origin", "X-Forwarded-For", "User-Agent", "Cookie", "Idempotency-Key", "Authorization", "Content-Encoding", "Referer"):
        connection = socket.create_connection(("127.0.0.1", shared.port), timeout=30)
        body = b'{"fields": []}'
        head = f"POST /forms/7/f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}: {clean}canary\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode("latin-1") + body)
        answer = b""
        while received := connection.recv(65_536):
            answer += received
        connection.close()
        assert b" 5" not in answer.partition(b"\r\n")[0][8:11], answer
        assert b"canary" not in answer, header


def test_it_is_still_there(shared: Running) -> None:
    """After all of that: alive, ready, and silent about bugs."""
    time.sleep(0.1)
    assert shared.get("/ready").status_code == 200
    assert "a bug" not in shared.log
