"""Clients that are slow, many, or mad: no answer is a 5xx, memory is bounded, and everybody else is served meanwhile."""

import json
import os
import re
import resource
import socket
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.edge import bodies
from tests.edge.deciding import hit_like, json_values
from tests.edge.requesting import answered, hits, posted, request, together, view
from tests.edge.running import ORIGIN, PERSON, SITE, Running
from tests.waiting import until

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


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\n" + b"a:\r\n" * 10_000 + b"\r\n",
        b"GET /health HTTP/1.1\r\n\r\n" * 1_000,
        b"POST /\xff HTTP/1.1\r\nContent-Length: 2\r\n\r\n",
        b"POST /e/7 HTTP/1.1\r\nOrigin: " + ORIGIN.encode() + b"\r\n X-Folded: canary\r\nContent-Length: 2\r\n\r\n[]",
        b"POST /e/7 HTTP/1.1\r\nOrigin: " + ORIGIN.encode() + b"\rX-Injected: canary\r\nContent-Length: 2\r\n\r\n[]",
        b"POST /e/7 HTTP/1.1\r\nOrigin: " + ORIGIN.encode() + b"\x00canary\r\nContent-Length: 2\r\n\r\n[]",
    ],
    ids=["many headers", "many requests", "an odd path", "a folded header", "a bare CR", "a NUL"],
)
def test_what_costs_more_than_it_should_or_means_two_things_is_refused(shared: Running, sent: bytes) -> None:
    """A few bytes each of headers or requests, of which we would make objects; heads of which others might read something else."""
    with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as connection:
        connection.sendall(sent)
        answer = b""
        with suppress(ConnectionResetError):  # what was not read any more
            while received := connection.recv(65_536):
                answer += received
    assert b" 400 " in answer
    assert b"canary" not in answer


def test_headers_after_a_body_are_bounded_too(shared: Running) -> None:
    """The connection is closed at once; it does not wait for their end, or for its own patience with the body."""
    with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as connection:
        head = f"POST /e/7 HTTP/1.1\r\nOrigin: {ORIGIN}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + b"1\r\n[\r\n0\r\n" + b"a:\r\n" * 10_000)
        answer = b""
        with suppress(ConnectionResetError):
            while received := connection.recv(65_536):
                answer += received
    assert answer == b""


def test_slow_bodies_cost_no_memory(shared: Running) -> None:
    """150 MB of bodies that never end: what is too much of it is refused at once, the rest after seconds; others are served meanwhile."""
    before = resident(shared)
    head = f"POST /e/7 HTTP/1.1\r\nHost: x\r\nOrigin: {ORIGIN}\r\nContent-Length: 520000\r\n\r\n".encode()
    slow = [socket.create_connection(("127.0.0.1", shared.port), timeout=60) for _ in range(300)]
    for each in slow:
        with suppress(OSError):  # it may have been refused already
            each.sendall(head + b" " * 510_000)
    assert shared.post(view()).status_code == 202
    assert shared.form({"fields": []}).status_code == 202
    assert resident(shared) - before < 150 << 20
    statuses = Counter(_status(each) for each in slow)
    assert set(statuses) == {b"408", b"503"}
    assert statuses[b"408"] * 500_000 < 80 << 20


def _status(connection: socket.socket) -> bytes:
    """Of the answer to somebody who goes on sending; those who were cut off for it had the answer for busy times."""
    try:
        return connection.recv(65_536).split(b" ")[1]
    except ConnectionResetError:
        return b"503"
    finally:
        connection.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "asked",
    [
        f"GET /t/{SITE}.js HTTP/1.1\r\nCookie: {'a' * 4_000}\r\n\r\n".encode(),
        request(hits(), headers=PERSON | {"Cookie": "a" * 4_000}),
    ],
    ids=["script", "hits"],
)
def test_a_client_that_does_not_read(shared: Running, asked: bytes) -> None:
    """Nothing more is taken of it, its answers cost no memory, it is cut off in the end, and others are served meanwhile."""
    assert shared.post(view()).status_code == 202  # its connection to Kafka is there, too
    before, open_before = resident(shared), sockets(shared)
    deaf = [stuffed(shared, asked) for _ in range(3)]
    assert shared.post(view()).status_code == 202
    assert resident(shared) - before < 30 << 20
    until(lambda: sockets(shared) <= open_before, "those who do not read are cut off", 120)
    for each in deaf:
        each.close()


def stuffed(edge: Running, asked: bytes) -> socket.socket:
    """A connection on which nobody reads the answers, with as many requests as the collector takes before it waits or closes."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.settimeout(2)
    client.connect(("127.0.0.1", edge.port))
    for _ in range((16 << 20) // len(asked)):
        try:
            client.sendall(asked)
        except OSError:  # TimeoutError is one, too
            return client
        time.sleep(0.0005)  # so that they come one by one
    raise AssertionError("everything is taken")


def sockets(edge: Running) -> int:
    """How many the process has open."""
    assert edge.process is not None
    found = []
    for opened in Path(f"/proc/{edge.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since we looked
            found.append(str(opened.readlink()))
    return sum(name.startswith("socket:") for name in found)


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
    """Bodies within the bounds that would be 400 MB each, several at once: at no moment is more than a little of them there."""
    zipping = zlib.compressobj(9, wbits=31)
    bomb = b"".join([*(zipping.compress(bytes(1_000_000)) for _ in range(400)), zipping.flush()])
    assert len(bomb) < bodies.MAX_BYTES
    before = resident(shared)
    forget_peak(shared)
    headers = {**PERSON, "Content-Encoding": "gzip"}
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda path: requests.post(shared.at + path, bomb, headers=headers, timeout=60), ["/e/7", "/forms/7/f"] * 4)
        )
    assert {(answer.status_code, answer.json()["error"]) for answer in answers} == {(413, "too_large")}
    assert peak(shared) - before < 60 << 20


def forget_peak(edge: Running) -> None:
    assert edge.process is not None
    Path(f"/proc/{edge.process.pid}/clear_refs").write_text("5")


def peak(edge: Running) -> int:
    """Bytes of memory that the collector's process had at most since it was forgotten."""
    assert edge.process is not None
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{edge.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


@pytest.mark.timeout(600)
def test_strangers_texts_are_not_remembered(shared: Running) -> None:
    """What is looked up when it comes again (hosts, addresses, cookies) is short and plain; of anything else nothing is left."""
    before = resident(shared)
    for number in range(190):
        odd = [f"http://www.site.localhost/{number}/{each}?{HONEYBEE * 1_000}" for each in range(45)]
        plain = json.dumps(together([view(url=page, referrer=page) for page in odd]), ensure_ascii=False).encode()
        assert answered(shared, [posted(f"/e/{SITE}", plain)])[2]["accepted"] == 45
    for number in range(140):
        long = f"{number:X}" + "A" * 160_000
        page = {"url": f"http://www.site.localhost/?{long}", "referrer": f"http://{long}/?{long[:90_000]}", "utk": long[:50_000]}
        for wrong in (page, {"url": f"http://{long * 3}.site.localhost/"}):
            whole = json.dumps(together([view() | wrong])).encode()
            assert answered(shared, [posted(f"/e/{SITE}", whole)])[0] == 202
    assert resident(shared) - before < 40 << 20


HONEYBEE = "\N{HONEYBEE}"
"""A character of four bytes, wherever it is."""


def test_a_letter_with_many_marks_holds_nobody_up(shared: Running) -> None:
    """Normalising it takes the square of their number: over a minute for the 250,000 that a body may hold."""
    marked = "a" + "\u0301\u0323" * 60_000 + "@x.io"
    form = {"fields": [{"name": "email", "value": marked[:60_000] + "@x.io"}]}
    hit = view(type="identify", utk="0" * 32, email=marked)
    multipart = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"a" * 200_000 + b"-" + b"a" * 200_000 + b"\r\n--x--\r\n"
    kind = {**PERSON, "Content-Type": "multipart/form-data; boundary=x; charset=punycode"}
    body = json.dumps(hit, ensure_ascii=False).encode()
    began = cpu_seconds(shared)
    assert shared.form(form).status_code == 400
    assert requests.post(f"{shared.at}/e/7", body, headers=PERSON, timeout=120).json()["refused"][0]["reason"] == "invalid_email"
    assert requests.post(f"{shared.at}/forms/7/f", multipart, headers=kind, timeout=120).status_code == 415
    assert cpu_seconds(shared) - began < 1


def cpu_seconds(edge: Running) -> float:
    """What the collector's process has used."""
    assert edge.process is not None
    fields = Path(f"/proc/{edge.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@fuzz
@given(body=st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_body_is_a_5xx(shared: Running, body: bytes) -> None:
    """Whatever is posted in one write, to hits and to forms of any kind, is an answer of the table, the same by both ways."""
    for path in (f"/e/{SITE}", f"/forms/{SITE}/contact"):
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            person = {**PERSON, "Content-Type": kind}
            answer = answered(shared, [posted(path, body, person)])
            by_long_way = answered(shared, [posted(path, body, {**person, "Connection": "close"})])
            assert answer[0] in (202, 303, 400, 413), (path, kind, answer)
            assert (answer[0], answer[2]) == (by_long_way[0], by_long_way[2])


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
def test_malformed_json_in_500_forms(shared: Running, body: bytes, is_form: bool) -> None:
    """Each is answered by what it is: not JSON, or JSON of which something is right or wrong; and the same by both ways.

    In one write on a connection that stays it goes the short way, or is left by it; on one that ends it goes the long way.
    """
    path = f"/forms/{SITE}/contact" if is_form else f"/e/{SITE}"
    status, headers, told = answered(shared, [posted(path, body)])
    by_long_way = answered(shared, [posted(path, body, {**PERSON, "Connection": "close"})])
    assert by_long_way[1].pop("connection") == "close"
    assert (status, headers, told) == by_long_way
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        assert (status, told) == (400, {"error": "malformed_json"})
    else:
        assert status in (202, 400)
        assert told != {"error": "malformed_json"}


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
