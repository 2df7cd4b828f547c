"""Kafka goes away and comes back, collectors die: every hit that was answered with 202 is in the topics afterwards.

The ledger is what the client was told; the topics are what Kafka says.
"""

import random
import threading
import time
from collections.abc import Iterator
from signal import SIGKILL
from typing import Any
from uuid import uuid4

import pytest
import requests

from pipeline.edge.spool import read
from pipeline.settings import Settings
from tests.agents.test_kafka_away import Broker
from tests.builders import utk
from tests.edge.requesting import CANARIES, NO, answered, canary_form, canary_view, request, together, view
from tests.edge.running import ASKING, PERSON, SITE, Running, events
from tests.waiting import until

AWAY_S = 60


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Runs before and after each test."""
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(scope="module")
def edge(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A collector on a broker of its own, which runs."""
    settings = Settings.model_validate({"kafka": {"bootstrap_servers": broker.at}})
    edge = Running(settings, tmp_path_factory.mktemp("edge"))
    edge.start()
    yield edge
    edge.stop(SIGKILL)


class Load:
    """Browsers that send hits until they are stopped, and what they were told."""

    def __init__(self, edge: Running, threads: int = 4) -> None:
        self.accepted: list[str] = []
        self.statuses: set[int] = set()
        self._edge = edge
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while not self._stop.wait(0.02):
            hits = [view(event_id=str(uuid4())) for _ in range(5)]
            try:
                status, told = self._post(hits)
            except (requests.RequestException, OSError):
                continue
            self.statuses.add(status)
            if status == 202 and told["accepted"] == 5:
                self.accepted += [hit["event_id"] for hit in hits]

    def _post(self, hits: list[dict[str, Any]]) -> tuple[int, Any]:
        """The long way, or in one piece, which is the short way while Kafka is there."""
        if random.random() < 0.5:
            answer = self._edge.post(hits)
            return answer.status_code, answer.json()
        status, _, told = answered(self._edge, [request(together(hits))])
        return status, told

    def stop(self) -> list[str]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.accepted


def in_kafka(edge: Running) -> set[str]:
    return {event.event_id for event in events(edge.settings)}


def drained(edge: Running) -> bool:
    return not list(edge.spool.rglob("*.spool"))


@pytest.mark.timeout(400)
def test_kafka_is_killed_for_a_minute_under_load(edge: Running, broker: Broker) -> None:
    """Nothing is refused, nothing is lost, and the spool is empty afterwards."""
    load = Load(edge)
    until(lambda: len(load.accepted) > 100, "hits are accepted")
    broker.kill()
    before = len(load.accepted)
    time.sleep(AWAY_S)
    assert len(load.accepted) > before, "accepted while Kafka is away"
    assert not drained(edge)
    broker.start()
    until(lambda: drained(edge), lambda: f"the spool is drained:\n{edge.log}", 120)
    accepted = load.stop()
    until(lambda: drained(edge), "the spool is drained", 60)
    assert load.statuses == {202}
    assert set(accepted) <= in_kafka(edge)


@pytest.mark.timeout(400)
def test_a_collector_is_killed_with_a_filled_spool(edge: Running, broker: Broker) -> None:
    """A kill -9 under load while Kafka is away, and a torn last record: the next process brings all of it to Kafka.

    The spool holds what came after a no, too, and nothing of who sent it.
    """
    broker.kill()
    load = Load(edge)
    until(lambda: len(load.accepted) > 200, "hits are accepted without Kafka", 120)
    person = {**PERSON, "User-Agent": "Mozilla/5.0 Canary/9"}
    said = [edge.post(canary_view(**NO), portal, person) for portal in (SITE, ASKING)]
    said += [edge.form(canary_form(NO), portal, headers=person) for portal in (SITE, ASKING)]
    assert [answer.json()["accepted"] for answer in said] == [1] * 4
    values = [record.value for path in edge.spool.rglob("*.spool") for record in read(path)]
    theirs = [value for value in values if b"utm_source=ok" in value]
    assert len(theirs) == 4
    assert [canary for canary in CANARIES if canary.encode() in b"".join(theirs)] == []
    assert utk("canary").encode() not in b"".join(values)
    edge.stop(SIGKILL)
    accepted = load.stop()
    newest = max(edge.spool.rglob("*.spool"))
    with newest.open("ab") as segment:
        segment.write(b"\x00\x00\x01\x00torn")
    edge.start()
    broker.start()
    until(lambda: drained(edge), lambda: f"the spool is drained:\n{edge.log}", 120)
    assert set(accepted) <= in_kafka(edge)


@pytest.mark.timeout(400)
def test_a_full_spool_says_so_and_recovers(edge: Running, broker: Broker) -> None:
    """503 with Retry-After when nothing more can be kept, also of /ready; 202 again when Kafka is back; a reader's link works meanwhile."""
    edge.stop()
    edge.start(PIPELINE_EDGE__SPOOL_BYTES="65536")
    broker.kill()
    load = Load(edge)
    until(lambda: 503 in load.statuses, "the spool is full", 120)
    load.stop()
    until(lambda: edge.get("/ready").status_code == 503 or edge.post([view()] * 100).status_code == 503, "it is full")
    refused = edge.post([view()] * 200)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.headers["Access-Control-Allow-Origin"] == "http://www.site.localhost"
    broker.start()
    until(lambda: drained(edge), lambda: f"the spool is drained:\n{edge.log}", 120)
    assert edge.post(view()).status_code == 202
    assert edge.get("/ready").status_code == 200
    assert set(load.accepted) <= in_kafka(edge)
