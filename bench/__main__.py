"""`python -m bench`: how fast the whole pipeline is on this machine, and how much memory its parts take.

Kafka, ClickHouse, the publisher and all parts share the machine. Measured: events per second from the beginning of `publish`
until every part has caught up and ClickHouse shows all (`status --wait`); the peak memory of each part (VmHWM); and what
`resolve` makes of the same file on one core.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from bench import usage
from bench.runs import Cookies, Directory, Events, Json, Seed, arrived
from bench.traffic import Traffic
from bench.usage import Usage
from infra.demo.stage import Stage, running, stage
from pipeline import catching_up, logs, output
from pipeline.adapters import clickhouse, topics
from pipeline.cli import end, guarded
from pipeline.errors import UserError
from pipeline.publish import publish
from pipeline.settings import Log

PATIENCE_S = 600.0
START_S = 60.0


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class Resolving:
    """`resolve` as a process of its own, from start to exit: events per second by the clock and by CPU time, and its peak memory."""

    events_per_s: float
    events_per_cpu_s: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Result:
    """Rates are events per second; `usage` has CPU time from the first event on, which other load on the machine hardly changes."""

    events: int
    cookies: int
    workers: int
    cores: int
    published_per_s: float
    end_to_end_per_s: float
    usage: dict[str, Usage]
    rows: dict[str, int]
    resolve: Resolving


@app.command()
def bench(
    events: Events = 1_000_000,
    cookies: Cookies = 100_000,
    seed: Seed = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes of each part.")] = 1,
    smoke: Annotated[bool, typer.Option("--smoke", help="A small run that takes about 20 s.")] = False,
    directory: Directory = None,
    json: Json = False,
) -> None:
    """Measure the whole pipeline on this machine."""
    logs.configure(Log(level="warning"))
    if smoke:
        events, cookies = min(events, 20_000), min(cookies, 2_000)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as scratch:
        show(measure(Traffic(events, min(cookies, events), seed), workers, Path(scratch)), as_json=json)


def measure(traffic: Traffic, workers: int, scratch: Path) -> Result:
    """Runs everything once. UserError if the pipeline does not finish, or if events are missing at the end."""
    file = scratch / "events.jsonl"
    _say(f"generating {traffic.events:,} events of {traffic.cookies:,} cookies")
    traffic.write(file)
    _say("resolve")
    resolving = _resolve(file, traffic.events)
    _say("starting Kafka and ClickHouse")
    with stage(scratch / "servers") as ready:
        topics.create_topics(ready.settings)
        clickhouse.migrate(ready.settings)
        with running(ready, workers) as run:
            _wait_for_parts(ready, workers)
            before = _usage(ready, run)
            published_s, seconds = _publish(ready, file)
            used = {name: after.since(before[name]) for name, after in _usage(ready, run).items()}
            rows = arrived(ready, traffic)
    return Result(
        traffic.events,
        traffic.cookies,
        workers,
        os.cpu_count() or 1,
        traffic.events / published_s,
        traffic.events / seconds,
        used,
        rows,
        resolving,
    )


def show(result: Result, *, as_json: bool) -> None:
    """Prints the result."""
    if as_json:
        output.print_json(asdict(result))
        return
    measures: list[tuple[str, str]] = [
        ("events / cookies", f"{result.events:,} / {result.cookies:,}"),
        ("cores / processes of each part", f"{result.cores} / {result.workers}"),
        ("publish", f"{result.published_per_s:,.0f} events/s"),
        ("publish to rows and links in ClickHouse", f"{result.end_to_end_per_s:,.0f} events/s"),
        *((f"peak memory of {name}", f"{used.peak_mb:,.0f} MB") for name, used in result.usage.items()),
        *((f"CPU time of {name}", f"{used.cpu_s / result.events * 1e6:,.1f} us/event") for name, used in result.usage.items()),
        *((f"rows of {name}", f"{count:,}") for name, count in result.rows.items()),
        ("resolve, one core", f"{result.resolve.events_per_s:,.0f} events/s"),
        ("resolve, by CPU time", f"{result.resolve.events_per_cpu_s:,.0f} events/s"),
        ("peak memory of resolve", f"{result.resolve.peak_mb:,.0f} MB"),
    ]
    output.print_table(("measure", "#value"), measures)


def _resolve(file: Path, events: int) -> Resolving:
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "pipeline", "resolve", str(file)], stdout=subprocess.DEVNULL)
    _, code, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise UserError(f"resolve ended with exit code {process.returncode}")
    return Resolving(events / (time.monotonic() - began), events / (used.ru_utime + used.ru_stime), used.ru_maxrss * 1024 / 1e6)


def _usage(ready: Stage, run: int) -> dict[str, Usage]:
    """Of the publisher (this process), of every part, and of the servers."""
    return usage.of({"publish": os.getpid()}) | usage.of_workers(run) | usage.of(ready.pids)


def _wait_for_parts(ready: Stage, workers: int) -> None:
    if not catching_up.wait_for_processes(ready.settings, workers, START_S):
        raise UserError(f"not every part was at work after {START_S:g} s; the log ends with\n{ready.log.read_text()[-2000:]}")


def _publish(ready: Stage, file: Path) -> tuple[float, float]:
    """Seconds until Kafka has all events, and until ClickHouse shows them."""
    _say("publishing")
    began = time.monotonic()
    publish(ready.settings, file)
    published_s = time.monotonic() - began
    _say(f"published in {published_s:.1f} s; waiting for ClickHouse")
    _wait(ready)
    return published_s, time.monotonic() - began


def _wait(ready: Stage) -> None:
    behind = catching_up.wait(ready.settings, PATIENCE_S)
    if behind:
        raise UserError(f"not finished after {PATIENCE_S:g} s: {behind}; the log of the parts ends with\n{ready.log.read_text()[-2000:]}")


def _say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    end(guarded(app, "python -m bench"))
