"""The benchmark of the collector: its client believes nothing that is no acceptance, waits as a visitor would, and everything runs."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import pytest

from bench import cores, edge, hits, load
from bench.contest import Contest
from bench.load import Asked
from pipeline.adapters import topics
from pipeline.errors import UserError
from pipeline.settings import Settings
from tests.edge.running import raw_values

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
GOOD = b'HTTP/1.1 202 Accepted\r\nServer: x\r\nContent-Length: 14\r\n\r\n{"accepted":1}'


@contextmanager
def answering(answer: Callable[[int], bytes]) -> Iterator[int]:
    """The port of a server with one connection, that answers the n-th request so; an empty answer hangs up."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            for number in range(1_000_000):
                if not connection.recv(65_536) or not (said := answer(number)):
                    return
                connection.sendall(said)

    threading.Thread(target=serve, daemon=True).start()
    with listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (GOOD.replace(b"202 Accepted", b"503 Service Unavailable"), "no acceptance.*503"),
        (GOOD.replace(b'{"accepted":1}', b'{"accepted":0}'), "no acceptance"),
        (b"", "closed a connection"),
    ],
)
def test_the_client_counts_acceptances_only(answer: bytes, said: str) -> None:
    """Whatever else a server says ends the measurement with what it was."""
    with answering(lambda _: answer) as port, pytest.raises(UserError, match=said):
        load.ask(port, Asked(repeat(REQUEST), b'"accepted":1'), 1, 0.2)


def test_the_client_counts_every_answer() -> None:
    """As many times as answers; each request got one."""
    asked: set[int] = set()

    def good(number: int) -> bytes:
        asked.add(number)
        return GOOD

    with answering(good) as port:
        answers = load.ask(port, Asked(repeat(REQUEST), b'"accepted":1'), 1, 0.2)
    assert len(answers.took) == len(asked) > 0
    assert answers.seconds >= 0.2


def test_a_server_that_stands_still_is_seen_by_all_who_would_have_asked() -> None:
    """At a rate, an answer takes from when its request was due: half a second's standstill shows in many answers, not in one."""

    def still(number: int) -> bytes:
        time.sleep(0.5 if number == 0 else 0)
        return GOOD

    with answering(still) as port:
        answers = load.ask(port, Asked(repeat(REQUEST), b'"accepted":1'), 1, 1.0, rate=100)
    assert len(answers.took) == 100
    assert sum(took > 0.1 for took in answers.took) >= 30


def test_a_slow_rate_asks_at_least_once() -> None:
    """Half of what a server did that stood still may be less than one request in the time there is."""
    with answering(lambda _: GOOD) as port:
        assert len(load.ask(port, Asked(repeat(REQUEST), b'"accepted":1'), 1, 0.1, rate=0.01).took) == 1


def test_hits_are_many_and_none_comes_twice() -> None:
    """The requests of two runs have as many different ids as hits."""
    ids = set()
    for run in (1, 2):
        made = hits.requests(20, run)
        for _ in range(600):
            head, _, body = next(made).partition(b"\r\n\r\n")
            assert f"Content-Length: {len(body)}\r\n".encode() in head
            ids |= {part[:36] for part in body.split(b'"event_id":"')[1:]}
    assert len(ids) == 2 * 600 * 20


def test_accepted_page_views_that_kafka_does_not_have_are_an_error(settings: Settings) -> None:
    """Topics that do not have what was accepted are never a result."""
    topics.create_topics(settings)
    with pytest.raises(UserError, match="edge accepted 1 page views, Kafka has 0"):
        Contest(settings, {}, {}, accepted={"edge": 1}).all_arrived()


@pytest.mark.timeout(600)
def test_a_small_run(settings: Settings, tmp_path: Path) -> None:
    """Every server is measured, at full load and at half; what the collector accepted is in its topics."""
    result = edge.measure(settings, cores.shared_out(), tmp_path, rounds=1, seconds=0.3)
    assert set(result.full) == set(result.half) == {"bare, 1 a request", "produce, 1 a request", "edge, 1 a request", "edge, 20 a request"}
    assert all(speed.hits_per_s > 0 and 0 < speed.p50_ms <= speed.p99_ms for speed in (*result.full.values(), *result.half.values()))
    assert len(raw_values(settings)) >= result.accepted["edge"] > 0
    assert 1_000 < result.script_bytes < 10_000
    edge.show(result, as_json=False)
