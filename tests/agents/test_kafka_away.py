"""Workers whose Kafka goes away, on a broker of their own: they wait, say so, lose nothing and double nothing."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from infra import kafka_server, ports, processes
from pipeline.agents.harness import part
from pipeline.agents.worker import wait_for_topics
from pipeline.errors import UserError
from pipeline.settings import Settings
from tests.agents.counting import STEPS, decode
from tests.agents.running import Toy
from tests.waiting import until


class Broker:
    """A Kafka that can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        first = ports.choose([])
        self._ports = [first, ports.choose([first])]
        self._process: processes.Identity | None = None
        self.at = f"{ports.LOOPBACK}:{self._ports[0]}"

    def start(self) -> None:
        log = self._directory / "kafka.log"
        command = kafka_server.prepare(self._directory, log, *self._ports)
        self._process = processes.spawn(command, log, {}, ends_with_parent=True)
        until(lambda: kafka_server.answers(self._ports[0]), seconds=90)

    def kill(self) -> None:
        if self._process is not None:
            processes.stop([self._process], seconds=0)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path / "kafka")
    yield broker
    broker.kill()


@pytest.fixture
def toy(broker: Broker, tmp_path: Path) -> Iterator[Toy]:
    settings = Settings.model_validate({"kafka": {"bootstrap_servers": broker.at}, "data_dir": tmp_path})
    toy = Toy(settings)
    yield toy
    toy.stop()


def test_a_broker_that_dies_in_the_middle_costs_nothing_but_time(toy: Toy, broker: Broker) -> None:
    """Kafka is killed while batches are committed, stays away longer than a session, comes back; the worker was never restarted."""
    broker.start()
    toy.make_topics()
    toy.publish(4000)
    worker = toy.start(slow=True)
    until(toy.has_counted(0.2))
    broker.kill()
    time.sleep(5)
    assert worker.wait(0) is None
    broker.start()
    until(toy.is_counted, seconds=60)
    assert worker.wait(0) is None
    toy.publish(100, seed=2)
    until(toy.is_counted)
    until(lambda: toy.committed() == toy.ends())


def test_a_worker_can_be_stopped_while_kafka_is_away(toy: Toy, broker: Broker) -> None:
    """In the time that a stop may take, although its batch cannot be finished; the next worker does it."""
    broker.start()
    toy.make_topics()
    toy.publish(4000)
    worker = toy.start(slow=True)
    until(toy.has_counted(0.1))
    broker.kill()
    asked = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - asked < 10
    broker.start()
    toy.start()
    until(toy.is_counted, seconds=60)


def test_workers_whose_kafka_dies_while_they_start_read_all_topics(toy: Toy, broker: Broker) -> None:
    """Wherever they are in their start: who was not answered when it asked for its topics asks again; others end with a message."""
    broker.start()
    toys = [Toy(with_prefix(toy.settings, f"{number}-")) for number in range(6)]
    for each in toys:
        each.make_topics()
        each.publish(100)
    try:
        for each in toys:
            each.start()
            time.sleep(0.15)
        broker.kill()
        time.sleep(2)
        broker.start()
        for each in toys:
            until(partial(is_counted_or_started_again, each), seconds=60)
        said = "".join(each.said() for each in toys)
        assert said.count("ready") >= len(toys)
        assert "bug" not in said
    finally:
        for each in toys:
            each.stop()


def is_counted_or_started_again(toy: Toy) -> bool:
    """As a supervisor does it."""
    if toy.workers[-1].wait(0) is not None:
        toy.start()
    return toy.is_counted()


def with_prefix(settings: Settings, prefix: str) -> Settings:
    return settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"topic_prefix": prefix})})


def test_a_worker_that_starts_first_waits(toy: Toy, broker: Broker) -> None:
    """And can be stopped while it waits. When Kafka is there without our topics, it names them and ends."""
    stopped, waiting = toy.start(), toy.start()
    time.sleep(2)
    assert stopped.terminate() == 0
    assert waiting.wait(0) is None
    broker.start()
    assert waiting.wait(30) == 1
    with pytest.raises(UserError, match=r"apples, pears, count-keys-changelog.*python -m pipeline topics"):
        wait_for_topics(part(toy.settings, "count", STEPS["count"], decode=decode))
