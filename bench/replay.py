"""`python -m bench.replay`: how fast the bulk rebuild of a replay is on this machine, and how much memory it takes.

Kafka, ClickHouse and the rebuild share the machine. Made-up events are published first, which is not measured. Measured: events per
second from the call of `rebuild` to its return; CPU time of the rebuild (all its processes) and of the servers; the peak of the
memory of all processes of the rebuild together, looked at once a second (pages that they share count once).
"""

import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import typer

from bench import usage
from bench.runs import Cookies, Directory, Events, Json, Seed, arrived
from bench.traffic import Traffic
from infra.demo.stage import Stage, stage
from pipeline import logs, output
from pipeline.adapters import clickhouse, topics
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.bulk.neighbours import ends
from pipeline.bulk.rebuild import rebuild
from pipeline.cli import end, guarded
from pipeline.core.policy import Policy
from pipeline.publish import publish
from pipeline.settings import Log, Settings

_LOOK_S = 1.0
"""A look takes 16 ms of CPU, of which a rebuild has not much to spare."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class Result:
    """`cpu_s` by process; `peak_mb` (10^6 bytes) of the rebuild's processes together."""

    events: int
    cookies: int
    cores: int
    seconds: float
    events_per_s: float
    cpu_s: dict[str, float]
    peak_mb: float
    rows: dict[str, int]


@app.command()
def bench(
    events: Events = 1_000_000,
    cookies: Cookies = 100_000,
    seed: Seed = 1,
    directory: Directory = None,
    json: Json = False,
) -> None:
    """Measure the bulk rebuild on this machine. Its stages and their times are logged."""
    logs.configure(Log(level="info"))
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as scratch:
        show(measure(Traffic(events, min(cookies, events), seed), Path(scratch)), as_json=json)


def measure(traffic: Traffic, scratch: Path) -> Result:
    """Runs everything once. UserError if events are missing at the end."""
    with stage(scratch / "servers") as ready:
        topics.create_topics(ready.settings)
        clickhouse.migrate(ready.settings)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as elsewhere:  # its memory is not the rebuild's
            elsewhere.submit(_prepare, traffic, scratch / "events.jsonl", ready.settings).result()
        until = ends(ready.settings, list(RAW_TOPICS.values()))
        before, began = _cpu(ready), time.monotonic()
        with _watched() as peak:
            rebuild(ready.settings, Policy(), until, lambda *_: None)
        seconds = time.monotonic() - began
        used = {name: after - before[name] for name, after in _cpu(ready).items()}
        rows = arrived(ready, traffic)
    cores = os.cpu_count() or 1
    return Result(traffic.events, traffic.cookies, cores, seconds, traffic.events / seconds, used, max(peak) / 1e6, rows)


def _prepare(traffic: Traffic, file: Path, settings: Settings) -> None:
    """Publishes the events."""
    traffic.write(file)
    publish(settings, file)


def show(result: Result, *, as_json: bool) -> None:
    """Prints the result."""
    if as_json:
        output.print_json(asdict(result))
        return
    measures: list[tuple[str, str]] = [
        ("events / cookies", f"{result.events:,} / {result.cookies:,}"),
        ("cores", f"{result.cores}"),
        ("rebuild", f"{result.events_per_s:,.0f} events/s"),
        ("peak memory of the rebuild", f"{result.peak_mb:,.0f} MB"),
        *((f"CPU time of {name}", f"{cpu / result.events * 1e6:,.1f} us/event") for name, cpu in result.cpu_s.items()),
        *((f"rows of {name}", f"{count:,}") for name, count in result.rows.items()),
    ]
    output.print_table(("measure", "#value"), measures)


def _cpu(ready: Stage) -> dict[str, float]:
    """Of this process and those that it has ended, and of the servers, in seconds."""
    mine = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    own = sum(each.ru_utime + each.ru_stime for each in mine)
    return {"the rebuild": own} | {name: used.cpu_s for name, used in usage.of(ready.pids).items()}


@contextmanager
def _watched() -> Iterator[list[int]]:
    """The memory of this process and its children together, as often as it was looked at."""
    over = threading.Event()
    seen: list[int] = []

    def watch() -> None:
        while not over.wait(_LOOK_S):
            seen.append(usage.resident(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


if __name__ == "__main__":
    end(guarded(app, "python -m bench.replay"))
