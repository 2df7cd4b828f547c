"""The whole product as processes on servers of its own, a ledger of what Kafka has accepted, and the comparison with what it means."""

import json
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from infra import processes
from infra.servers import Servers, embedded
from pipeline import catching_up
from pipeline.adapters import clickhouse, kafka, topics
from pipeline.adapters.avro import Registry
from pipeline.agents import health
from pipeline.app import ROLES
from pipeline.core.copies import merge
from pipeline.core.events import Event
from pipeline.core.parsing import parse_line
from pipeline.core.policy import Policy
from pipeline.leaving import DRAIN_S
from pipeline.publish import publish
from pipeline.resolve import resolve_events
from pipeline.settings import SchemaRegistry, Settings
from tests.adapters.recording import Gate
from tests.adapters.test_schema_ids import FakeRegistry
from tests.end_to_end.collisions import collisions
from tests.end_to_end.reading import resolution_in_clickhouse
from tests.faults.fail_points import MARK, PERSONAL, PLANTED
from tests.faults.planted import work
from tests.processes import Forked
from tests.waiting import until

PER_KIND = 2
SLICE = 150
"""Lines that are published at once; between slices there is a moment in which things can happen."""
HEALED_S = 240.0


class Worker(Forked):
    """A process of a part; with a bug or a fail point planted in it if there is one, which may leave a mark."""

    def __init__(self, settings: Settings, kind: str, instance: str | None, log: Path, bug: str | None, mark: Path | None = None) -> None:
        self.kind = kind
        self.instance = instance
        self.planted = bug
        self.mark = mark
        named = () if instance is None else ("--instance", instance)
        environment = {**os.environ, **settings.environment(), **({} if mark is None else {MARK: str(mark)})}
        super().__init__(work, bug, ("worker", kind, *named), environment, log)

    def terminate(self) -> tuple[int | None, float]:
        """SIGTERM: the exit code, and how long it took."""
        began = time.monotonic()
        self.signal(signal.SIGTERM)
        return self.wait(30), time.monotonic() - began


class System:
    """Servers, workers and the ledger. Faults act on it, `check` says whether anything was lost or doubled."""

    def __init__(self, directory: Path, servers: ExitStack, rng: random.Random, bug: str | None, settings: Settings | None) -> None:
        self.directory = directory
        self.servers_directory = directory / "servers"
        self._bug = bug
        self._servers = servers
        self.rng = rng
        self.log = directory / "workers.log"
        self.ledger: list[Event] = []
        """Every event that Kafka has acknowledged to `publish`, each time it did."""
        self._further = 10_000_000
        """Number of the next event that is not among those of the test."""
        self.poison: dict[tuple[str, str], str | None] = {}
        """Records that are no events, by topic and value (hexadecimal), all different: the reason, None if it is for `Registry` to say."""
        self.too_late: list[Event] = []
        """Events that came after the retention of their cookie's sessions: they are in no session."""
        self.workers: list[Worker] = []
        self._publishing = threading.Lock()
        self.registry = servers.enter_context(_registry())
        self.settings = self._with_registry(settings or self._start_servers())
        """What the test itself uses; workers come to ClickHouse through the gate."""
        self.gate = Gate(self.settings.clickhouse.host, self.settings.clickhouse.port)
        self.gate.open()
        servers.callback(self.gate.shut)
        topics.create_topics(self.settings)
        clickhouse.migrate(self.settings)

    def _start_servers(self) -> Settings:
        """Whichever does not run, on its old data."""
        found = self._servers.enter_context(embedded(self.servers_directory))
        self.pids = dict(found.pids)
        return _settings(found)

    def _with_registry(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"schema_registry": SchemaRegistry(url=self.registry.url), "data_dir": self.directory})

    @contextmanager
    def stopped_server(self, name: str) -> Iterator[None]:
        """Kill -9; at the end of the block it is there again with what it has on disk."""
        running = processes.identity(self.pids[name])
        os.kill(running.pid, signal.SIGKILL)
        until(lambda: not running.is_running(), seconds=HEALED_S)
        yield
        self._start_servers()

    def kill_server(self, name: str, away_s: float) -> None:
        with self.stopped_server(name):
            time.sleep(away_s)

    @property
    def workers_settings(self) -> Settings:
        clickhouse_ = self.settings.clickhouse.model_copy(update={"port": self.gate.port})
        return self.settings.model_copy(update={"clickhouse": clickhouse_})

    def start(self, kind: str, instance: str | None = None, planted: str | None = None, mark: Path | None = None) -> Worker:
        worker = Worker(self.workers_settings, kind, instance, self.log, planted or self._bug, mark)
        self.workers.append(worker)
        return worker

    def mark(self) -> Path:
        """A new one."""
        return self.directory / f"mark-{self.rng.random()}"

    def plant(self, points: Mapping[str, str], provoke: Callable[[], None] | None = None) -> None:
        """As `planted`, then kills who is left, and starts them as they were."""
        planted = self.planted(points, provoke)
        time.sleep(1.5)
        for worker in planted:
            worker.kill()
            self.end(worker)
            self.start(worker.kind, worker.instance)

    def planted(self, points: Mapping[str, str], provoke: Callable[[], None] | None = None) -> list[Worker]:
        """Restarts one worker of each kind with a fail point in it, waits until it has happened, and returns them.

        `provoke` is called when all are at work, for what does not happen by itself.
        """
        victims = {kind: self.rng.choice(self.of(kind)) for kind in points}
        planted = []
        for kind, victim in victims.items():
            victim.kill()
            self.end(victim)
            self._health_of(victim).unlink(missing_ok=True)
            planted.append((self.start(kind, victim.instance, points[kind], mark := self.mark()), mark))
        if provoke is not None:
            self.publish_until(lambda: all(self._has_partitions(worker) for worker, _ in planted))
            provoke()
        self.publish_until(lambda: all(mark.exists() for _, mark in planted))
        return [worker for worker, _ in planted]

    def _health_of(self, worker: Worker) -> Path:
        return health.directory(self.settings) / f"{worker.kind}-{worker.instance}.json"

    def _has_partitions(self, worker: Worker) -> bool:
        return bool(self.said(worker, "partitions"))

    def said(self, worker: Worker, name: str) -> Any:
        """What the worker's health file says; None if there is none."""
        file = self._health_of(worker)
        return json.loads(file.read_text())[name] if file.exists() else None

    def redeliver(self, kind: str) -> None:
        """Kills a worker of this kind amid its work, again and again, until records come again that it had applied."""
        while True:
            (worker,) = self.of(kind)
            self._health_of(worker).unlink(missing_ok=True)
            self.publish_until(partial(self._has_partitions, worker))
            if self.said(worker, "replayed"):
                return
            self.pause(0.1, 0.6)
            worker.kill()
            self.restart_if_dead()

    def publish_until(self, true: Callable[[], bool]) -> None:
        """Further events and copies of them, so that every part has something to do."""

        def published() -> bool:
            self._publish_further(self.rng)
            return true()

        until(lambda: true() or published(), seconds=HEALED_S)

    def _publish_further(self, rng: random.Random) -> None:
        self._publish(collisions(40, rng.randrange(1_000_000), first=self._further))
        self._further += 40

    @contextmanager
    def publishing_further(self) -> Iterator[None]:
        """Further events all the time, until the block ends."""
        ended, rng = threading.Event(), random.Random(self.rng.random())

        def work() -> None:
            while not ended.wait(0.3):
                self._publish_further(rng)

        with _in_a_thread(work, ended):
            yield

    def all_at_work(self) -> None:
        """Returns when every worker is in its group: one that only starts does not know what to do with a signal."""
        assert catching_up.wait_for_processes(self.settings, len(self.workers) // len(ROLES), HEALED_S)

    def terminate(self, worker: Worker) -> None:
        """By SIGTERM, for good: it drains in time, with exit code 0."""
        code, seconds = worker.terminate()
        assert (code, seconds < DRAIN_S + 2) == (0, True), f"{worker.kind} took {seconds:.1f} s to end with {code}"
        self.end(worker)

    def lose(self, worker: Worker) -> None:
        """By kill -9, for good."""
        worker.kill()
        self.end(worker)

    def stop(self, kinds: Sequence[str]) -> list[Worker]:
        """All of these kinds, by SIGTERM; `again` starts what this returns."""
        self.all_at_work()
        stopped = [worker for kind in kinds for worker in self.of(kind)]
        for worker in stopped:
            self.terminate(worker)
        return stopped

    def again(self, stopped: Iterable[Worker]) -> None:
        for worker in stopped:
            self.start(worker.kind, worker.instance)

    def of(self, kind: str) -> list[Worker]:
        return [worker for worker in self.workers if worker.kind == kind]

    def end(self, worker: Worker) -> None:
        """It was ended on purpose: nobody starts it again."""
        self.workers.remove(worker)

    def kill_one(self, kind: str) -> None:
        """Kill -9 of one of a kind, which a supervisor starts again."""
        worker = self.rng.choice(self.of(kind))
        worker.kill()
        self.end(worker)
        self.start(kind, worker.instance)

    def restart_if_dead(self) -> None:
        """As a supervisor does."""
        for worker in [worker for worker in self.workers if not worker.is_alive()]:
            self.end(worker)
            self.start(worker.kind, worker.instance)

    def pause(self, least: float, most: float) -> None:
        time.sleep(self.rng.uniform(least, most))

    @contextmanager
    def publishing(self, lines: Sequence[bytes]) -> Iterator[None]:
        """Publishes in slices while the block runs, and to the end."""

        def work() -> None:
            for start in range(0, len(lines), SLICE):
                self._publish(lines[start : start + SLICE])
                time.sleep(0.2)

        with _in_a_thread(work):
            yield
        acknowledged = {(event.portal_id, event.event_id) for event in self.ledger}
        events = [event for line in lines if isinstance(event := parse_line(line), Event)]
        assert {(event.portal_id, event.event_id) for event in events} <= acknowledged, "the ledger is not what was published"

    def _publish(self, lines: Sequence[bytes]) -> None:
        """As often as it takes: whoever publishes waits for Kafka, and sends again what was not acknowledged."""
        file = self.directory / "events.jsonl"
        deadline = time.monotonic() + HEALED_S
        with self._publishing:
            file.write_bytes(b"\n".join(lines))
            while True:
                try:
                    publish(self.settings, file, accepted=self.ledger.append)
                    return
                except kafka.AwayError:
                    if time.monotonic() > deadline:
                        raise

    def produce(self, topic: str, key: bytes | None, values: Sequence[bytes | None]) -> None:
        """Records as somebody else may write them."""
        self.produce_all((topic, key, value) for value in values)

    def produce_all(self, records: Iterable[tuple[str, bytes | None, bytes | None]]) -> None:
        """The same for records of several topics and keys."""
        producer = kafka.producer(self.settings)
        for topic, key, value in records:
            producer.produce(kafka.topic_name(self.settings, topic), value, key)
        assert producer.flush(60) == 0

    def check(self) -> None:
        """ClickHouse is what the ledger means, and what was accepted is either stored or failed, once."""
        self.settle()
        said = self.log.read_text()
        assert said.count("this is a bug") + said.count("a bug in the pipeline") == said.count(PLANTED), said[-4000:]
        assert PERSONAL not in said
        self.compare()

    def settle(self) -> None:
        """Returns when every part has read everything; whoever dies meanwhile is started again, as by a supervisor."""
        behind = catching_up.wait(self.settings, HEALED_S, self.restart_if_dead)
        if behind is not None:
            pytest.fail(f"{behind}\n{self.log.read_text()[-4000:]}")

    def compare(self) -> None:
        """What came too late is in no session; or in the right one, once a lost changelog was computed again from everything at once."""
        shown = resolution_in_clickhouse(self.settings)
        in_sessions = {row.event_id for row in shown.events if row.session_id is not None}
        copies: dict[Any, list[Event]] = {}
        for event in (*self.ledger, *(event for event in self.too_late if event.event_id in in_sessions)):
            copies.setdefault((event.portal_id, event.event_id), []).append(event)
        merged = [merge(of_one) for of_one in copies.values()]
        expected = resolve_events([one.event for one in merged], Policy())
        late = {event.event_id for event in self.too_late} - in_sessions
        assert late <= {row.event_id for row in shown.events}
        shown.events = [row for row in shown.events if row.event_id not in late]
        for name in ("contacts", "links", "sessions", "events"):
            assert getattr(shown, name) == getattr(expected, name), _difference(name, getattr(shown, name), getattr(expected, name))
        assert len(shown.rejected) == sum(len(one.conflicts) for one in merged)
        client = clickhouse.connect(self.settings)
        failed = client.execute("SELECT topic, hex(value), reason FROM failed_events WHERE reason != 'conflicting_duplicate'")
        poison = [(topic, value, reason or self._reason(topic, bytes.fromhex(value))) for (topic, value), reason in self.poison.items()]
        assert sorted(failed) == sorted(poison)
        shown_in = {view: client.execute(f"SELECT portal_id, event_id FROM {view}") for view in ("events", "timeline", "retracted_events")}
        assert sorted(shown_in["timeline"]) == sorted(shown_in["events"])
        ids = {(int(event.portal_id), UUID(event.event_id)) for event in (*self.ledger, *self.too_late)}
        assert sorted([*shown_in["events"], *shown_in["retracted_events"]]) == sorted(ids), "each event is shown or retracted"

    def _reason(self, topic: str, value: bytes) -> str:
        """Why these bytes are no event."""
        ((_, refused),) = Registry(self.settings, wait_s=30).decode_events([value], topic).refused
        return refused.reason.value


@contextmanager
def _in_a_thread(publish_: Callable[[], None], ended: threading.Event | None = None) -> Iterator[None]:
    """Publishes meanwhile, and to the end; `ended` is set when the block is over. What goes wrong with it is raised then."""
    failure: list[BaseException] = []

    def work() -> None:
        try:
            publish_()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the test
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        if ended is not None:
            ended.set()
    thread.join(HEALED_S)
    if failure:
        raise failure[0]
    assert not thread.is_alive(), "publish did not end"


def _difference(name: str, shown: Sequence[object], expected: Sequence[object]) -> str:
    too_many, missing = ([item for item in some if item not in others] for some, others in ((shown, expected), (expected, shown)))
    return "\n".join([name, *(f"shown: {item}" for item in too_many[:10]), *(f"expected: {item}" for item in missing[:10])])


@contextmanager
def _registry() -> Iterator[FakeRegistry]:
    server = FakeRegistry()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def _settings(servers: Servers) -> Settings:
    at = servers.clickhouse
    return Settings.model_validate(
        {
            "kafka": {"bootstrap_servers": servers.kafka.bootstrap_servers},
            "clickhouse": {"host": at.host, "port": at.port, "user": at.user, "password": at.password},
        }
    )


@contextmanager
def whole_system(seed: int, bug: str | None = None, per_kind: int = PER_KIND, settings: Settings | None = None) -> Iterator[System]:
    """So many workers of each part, with a bug of `planted.py` if one is named, on fresh servers if none are given by `settings`."""
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch, ExitStack() as servers:
        system = System(Path(scratch), servers, random.Random(seed), bug, settings)
        try:
            for kind in ROLES:
                for number in range(per_kind):
                    system.start(kind, str(number))
            yield system
        finally:
            for worker in system.workers:
                worker.signal(signal.SIGCONT)
                worker.kill()
