# ruff: noqa: FBT002 - switches are options of the command line
"""`python -m bench.edge`: how many hits the collector takes on one core of this machine, and how fast it answers.

One process of the collector, and what it is compared with (`bench.rivals`), have one core to themselves, in turns; the client and
Kafka have the others. Where there is but one core, all share it, and the report says so. Measured of each: page views a second
as fast as the answers come, one a request and in batches; page views per second of the server's CPU time, which other load on the machine
hardly changes; the time of an answer, also at half of that load; at the end, whether Kafka has every accepted page view. Besides: the
size of the tracking script, and what it costs a page.
"""

import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from bench import hits, load, usage
from bench.runs import Directory, Json
from bench.script_cost import Cost, cost
from infra import ports
from infra.demo.stage import Stage, stage
from pipeline import logs, output
from pipeline.adapters import topics
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.bulk.neighbours import ends
from pipeline.cli import end, guarded
from pipeline.core.events import PortalId
from pipeline.edge import served_script
from pipeline.edge.core.consent import Mode
from pipeline.edge.core.portal import Portal
from pipeline.errors import UserError
from pipeline.settings import Log, Settings

BATCH = 20
CONNECTIONS = 64
START_S = 60.0
_CASES = (("bare", 1), ("produce", 1), ("edge", 1), ("edge", BATCH))
"""Servers, and page views a request, in the order of each round."""
_TOPICS_OF = {"produce": "produce-", "edge": ""}
"""Prefixes of the topics, so that each server's page views can be counted."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class Speed:
    """Page views by the clock and by the server's CPU time; the time of an answer. `client`: its share of a core, a limit near 1."""

    hits_per_s: float
    hits_per_cpu_s: float
    p50_ms: float
    p99_ms: float
    client: float


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    wanted: float
    measured: float
    met: bool


@dataclass(frozen=True, slots=True)
class Result:
    """`full` and `half` load by case ("edge, 20 a request"); medians of the rounds. `script_cost` None: skipped, there is no browser."""

    cores: int
    pinned: bool
    accepted: int
    full: dict[str, Speed]
    half: dict[str, Speed]
    targets: list[Target]
    script_bytes: int
    script_cost: Cost | None


@app.command()
def bench(
    rounds: Annotated[int, typer.Option(min=1, help="How often each server has its turn.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, max=10, help="Length of a turn.")] = 2.0,
    smoke: Annotated[bool, typer.Option("--smoke", help="A small run that takes about 15 s.")] = False,
    directory: Directory = None,
    json: Json = False,
) -> None:
    """Measure the collector on this machine."""
    logs.configure(Log(level="warning"))
    if smoke:
        rounds, seconds = 1, 0.5
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as scratch:
        show(measure(rounds, seconds, Path(scratch)), as_json=json)


def measure(rounds: int, seconds: float, scratch: Path) -> Result:
    """Runs everything once. UserError if a server refuses a page view, or if Kafka does not have all that were accepted."""
    apart, rest = _cores()
    with ExitStack() as put_away:
        put_away.enter_context(_on(rest))
        ready = put_away.enter_context(stage(scratch / "servers"))
        servers = put_away.enter_context(_started(ready, scratch, apart))
        for case in _CASES:
            servers.turn(case, min(seconds, 1.0))  # to warm up
        turns = [{case: servers.turn(case, seconds) for case in _CASES} for _ in range(rounds)]
        full = {case: _median([turn[case] for turn in turns]) for case in _CASES}
        half = {case: servers.turn(case, 2 * seconds, full[case].hits_per_s / 2) for case in _CASES}
        servers.all_arrived()
        return Result(
            os.cpu_count() or 1,
            apart != rest,
            sum(servers.accepted.values()),
            {_name(case): speed for case, speed in full.items()},
            {_name(case): speed for case, speed in half.items()},
            _targets(full, half),
            len(gzip.compress(_script(), mtime=0)),
            cost(scratch, _script(), rounds),
        )


def show(result: Result, *, as_json: bool) -> None:
    """Prints the result."""
    if as_json:
        output.print_json(asdict(result))
        return
    where = "the server has a core of its own" if result.pinned else "server, client and Kafka share one core"
    columns = ("", "#hits/s", "#hits/CPU s", "#p50 ms", "#p99 ms", "#client's core")
    output.print_table(columns, _rows(result.full), title=f"as fast as the answers come, {CONNECTIONS} connections; {where}")
    output.print_table(columns, _rows(result.half), title="\nat half of that")
    rows = [(each.name, f"{each.wanted:,.2f}", f"{each.measured:,.2f}", "met" if each.met else "missed") for each in result.targets]
    output.print_table(("target", "#wanted", "#measured", ""), rows, title="\ntargets")
    output.print_table(("", "#"), _about(result), title="\nbesides")


def _rows(speeds: Mapping[str, Speed]) -> Iterator[tuple[str, ...]]:
    for name, speed in speeds.items():
        times = (f"{speed.p50_ms:.1f}", f"{speed.p99_ms:.1f}", f"{speed.client:.0%}")
        yield name, f"{speed.hits_per_s:,.0f}", f"{speed.hits_per_cpu_s:,.0f}", *times


def _about(result: Result) -> Iterator[tuple[str, str]]:
    yield "page views accepted, all of them in Kafka", f"{result.accepted:,}"
    yield "tracking script, gzipped", f"{result.script_bytes:,} bytes"
    found = result.script_cost
    yield (
        "CPU time that it adds to a page's load",
        f"{found.total_ms:.1f} ms" if found else "skipped: no chromium, chromedriver or selenium",
    )
    if found:
        yield "of it in the script itself", f"{found.script_ms:.1f} ms"


@dataclass
class _Servers:
    """The servers, and what each has accepted."""

    settings: Settings
    processes: Mapping[str, int]
    listening: Mapping[str, int]
    accepted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TOPICS_OF, 0))
    runs: int = 0

    def turn(self, case: tuple[str, int], seconds: float, rate: float | None = None) -> Speed:
        """One server's turn at full load, or at this rate of page views a second."""
        server, batch = case
        self.runs += 1
        before = self._cpu_s(server)
        answers = load.ask(
            self.listening[server], hits.requests(batch, self.runs), CONNECTIONS, seconds, None if rate is None else rate / batch
        )
        count = len(answers.took) * batch
        if server in self.accepted:
            self.accepted[server] += count
        p50, p99 = np.percentile(answers.took, (50, 99)) * 1e3
        return Speed(count / answers.seconds, count / (self._cpu_s(server) - before), float(p50), float(p99), answers.client)

    def all_arrived(self) -> None:
        """UserError if Kafka has fewer page views than were accepted."""
        for server, prefix in _TOPICS_OF.items():
            there = sum(ends(_prefixed(self.settings, prefix), set(RAW_TOPICS.values())).values())
            if there < self.accepted[server]:
                raise UserError(f"{server} accepted {self.accepted[server]} page views, Kafka has {there}: accepted ones are lost")

    def _cpu_s(self, server: str) -> float:
        return usage.of({server: self.processes[server]})[server].cpu_s


@contextmanager
def _started(ready: Stage, scratch: Path, apart: set[int]) -> Iterator[_Servers]:
    """Every server, answering, on cores of their own."""
    (scratch / "portals.toml").write_text(hits.PORTALS, encoding="utf-8")
    for prefix in _TOPICS_OF.values():
        topics.create_topics(_prefixed(ready.settings, prefix))
    listening: dict[str, int] = {}
    with ExitStack() as put_away:
        pids = {}
        for server in dict.fromkeys(server for server, _ in _CASES):
            listening[server] = ports.choose(listening.values())
            with _on(apart):
                process = put_away.enter_context(_running(server, listening[server], ready, scratch))
            pids[server] = process.pid
            _await(server, process, listening[server], ready.log)
        yield _Servers(ready.settings, pids, listening)


@contextmanager
def _running(server: str, port: int, ready: Stage, scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process. It has the cores that we have at this moment."""
    rival = ["-m", "bench.rivals", server, str(port)]
    own = ["-m", "pipeline", "edge", "--processes", "1", "--parent", str(os.getpid())]
    edge = {
        "PIPELINE_EDGE__PORTALS_FILE": str(scratch / "portals.toml"),
        "PIPELINE_EDGE__PORT": str(port),
        "PIPELINE_EDGE__METRICS_PORT": "0",
    }
    settings = _prefixed(ready.settings, _TOPICS_OF.get(server, ""))
    with ready.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *(own if server == "edge" else rival)],
            env={**os.environ, **settings.environment(), **edge},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _await(server: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not ports.is_answering(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise UserError(f"{server} does not listen on port {port}; the log ends with\n{log.read_text()[-2000:]}")
        time.sleep(0.05)


def _prefixed(settings: Settings, prefix: str) -> Settings:
    return settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"topic_prefix": prefix})})


def _cores() -> tuple[set[int], set[int]]:
    """One core for the server, and the others; the same one if there is no other."""
    *others, last = sorted(os.sched_getaffinity(0))
    return {last}, set(others) or {last}


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """On these cores this thread runs, and processes that it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _median(speeds: list[Speed]) -> Speed:
    """Of each measure for itself."""
    measures = [asdict(speed) for speed in speeds]
    return Speed(**{name: statistics.median(measure[name] for measure in measures) for name in measures[0]})


def _targets(full: Mapping[tuple[str, int], Speed], half: Mapping[tuple[str, int], Speed]) -> list[Target]:
    """Those of the project's own making: single hits against the bare application, batches, and the answer at half load."""
    bare, single, batches = full["bare", 1], full["edge", 1], full["edge", BATCH]
    shares = {"hits/s": single.hits_per_s / bare.hits_per_s, "hits/CPU s": single.hits_per_cpu_s / bare.hits_per_cpu_s}
    return [
        *(Target(f"single hits: share of the bare application's {name}", 0.6, share, share >= 0.6) for name, share in shares.items()),
        Target(f"{BATCH} a request: hits/s", 15_000, batches.hits_per_s, batches.hits_per_s >= 15_000),
        *(
            Target(f"{_name(case)}: p99 at half load, ms", 50, half[case].p99_ms, half[case].p99_ms < 50)
            for case in _CASES
            if case[0] == "edge"
        ),
    ]


def _name(case: tuple[str, int]) -> str:
    server, batch = case
    return f"{server}, {batch} a request"


def _script() -> bytes:
    """For a portal that need not ask, so that it does all that it can."""
    return served_script.tracking(Portal(PortalId(hits.PORTAL), ("site.example",), mode=Mode.OFF)).body


if __name__ == "__main__":
    end(guarded(app, "python -m bench.edge"))
