"""The collector and its rivals, each one process, which take turns on the same core."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench import cores, hits, load, usage
from bench.cores import Cores
from bench.load import Asked
from infra import ports
from pipeline.adapters import topics
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.bulk.neighbours import ends
from pipeline.errors import UserError
from pipeline.settings import Settings

CONNECTIONS = 256
"""Answers wait for Kafka, so few connections would measure its latency; each visitor of a site has one of his own."""
_START_S = 120.0
_COMMANDS = {
    "bare": ("-m", "bench.rivals", "bare"),
    "produce": ("-m", "bench.rivals", "produce"),
    "edge": ("-m", "pipeline", "edge", "--processes", "1", "--parent", str(os.getpid())),
}
_PREFIXES = {"produce": "produce-", "edge": ""}
"""Of the topics of those who write: each has its own, so that its page views can be counted."""


class Case(NamedTuple):
    """A server, and how many page views a request brings it."""

    server: str
    batch: int

    def __str__(self) -> str:
        return f"{self.server}, {self.batch} a request"


@dataclass(frozen=True, slots=True)
class Speed:
    """Page views by the clock and by the server's CPU time; the time of an answer. `client`: its share of a core, a limit near 1."""

    hits_per_s: float
    hits_per_cpu_s: float
    p50_ms: float
    p99_ms: float
    client: float


@dataclass
class Contest:
    """The servers, by their names, and how many page views those who write have accepted."""

    settings: Settings
    pids: Mapping[str, int]
    listening: Mapping[str, int]
    accepted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_PREFIXES, 0))
    _turns: int = 0

    def turn(self, case: Case, seconds: float, rate: float | None = None) -> Speed:
        """One server's turn, as fast as it answers or at this rate of page views a second."""
        self._turns += 1
        accepted = b'{"accepted":%d,' % case.batch if case.server == "edge" else b" 204 "
        asked = Asked(hits.requests(case.batch, self._turns), accepted)
        before = self._cpu_s(case.server)
        answers = load.ask(self.listening[case.server], asked, CONNECTIONS, seconds, rate and rate / case.batch)
        used = self._cpu_s(case.server) - before
        count = len(answers.took) * case.batch
        if case.server in self.accepted:
            self.accepted[case.server] += count
        p50, p99 = np.percentile(answers.took, (50, 99)) * 1e3
        return Speed(count / answers.seconds, count / max(used, 0.01), float(p50), float(p99), answers.client)

    def all_arrived(self) -> None:
        """UserError if Kafka has fewer page views than were accepted."""
        for server, accepted in self.accepted.items():
            there = sum(ends(_of(self.settings, server), set(RAW_TOPICS.values())).values())
            if there < accepted:
                raise UserError(f"{server} accepted {accepted} page views, Kafka has {there}: accepted ones are lost")

    def _cpu_s(self, server: str) -> float:
        return usage.of({server: self.pids[server]})[server].cpu_s


@contextmanager
def contest(settings: Settings, shared: Cores, scratch: Path) -> Iterator[Contest]:
    """All servers, answering, on the core that is theirs; we on the others. UserError if one does not start."""
    (scratch / "portals.toml").write_text(hits.PORTALS, encoding="utf-8")
    for server in _PREFIXES:
        topics.create_topics(_of(settings, server))
    pids: dict[str, int] = {}
    listening: dict[str, int] = {}
    with ExitStack() as put_away:
        for server, command in _COMMANDS.items():
            port = listening[server] = ports.choose(listening.values())
            with cores.on(shared.measured):
                process = put_away.enter_context(
                    _running(command, _environment(settings, server, port, scratch), scratch / f"{server}.log")
                )
            pids[server] = process.pid
            _await(server, process, port, scratch / f"{server}.log")
        put_away.enter_context(cores.on(shared.others))
        yield Contest(settings, pids, listening)


def _of(settings: Settings, server: str) -> Settings:
    """With the server's own topics."""
    prefix = settings.kafka.topic_prefix + _PREFIXES.get(server, "")
    return settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"topic_prefix": prefix})})


def _environment(settings: Settings, server: str, port: int, scratch: Path) -> dict[str, str]:
    own = {
        "PIPELINE_EDGE__PORTALS_FILE": str(scratch / "portals.toml"),
        "PIPELINE_EDGE__PORT": str(port),
        "PIPELINE_EDGE__METRICS_PORT": "0",
        "PIPELINE_DATA_DIR": str(scratch / "data"),
    }
    return {**os.environ, **_of(settings, server).environment(), **own}


@contextmanager
def _running(command: tuple[str, ...], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process, on the cores that this thread has now."""
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _await(server: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not ports.is_answering(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise UserError(f"{server} does not listen on port {port}; its log ends with\n{log.read_text()[-2000:]}")
        time.sleep(0.05)
