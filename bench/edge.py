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
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from bench import cores, hits
from bench.contest import CONNECTIONS, Case, Speed, contest
from bench.cores import Cores
from bench.runs import Directory, Json
from bench.script_cost import Cost, cost
from infra.demo.stage import stage
from pipeline import logs, output
from pipeline.cli import end, guarded
from pipeline.core.events import PortalId
from pipeline.edge import served_script
from pipeline.edge.core.consent import Mode
from pipeline.edge.core.portal import Portal
from pipeline.settings import Log, Settings

BARE, PRODUCE, SINGLE, BATCHES = CASES = (Case("bare", 1), Case("produce", 1), Case("edge", 1), Case("edge", 20))
"""In the order of each round."""
SHARE_OF_BARE, BATCHED_HITS_PER_S, P99_MS = 0.6, 15_000, 50
"""What we want."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    wanted: float
    measured: float
    met: bool


@dataclass(frozen=True, slots=True)
class Result:
    """`full` and `half` load by case, medians of the rounds. `script_cost` None: skipped, there is no browser."""

    cores: int
    pinned: bool
    accepted: dict[str, int]
    full: dict[str, Speed]
    half: dict[str, Speed]
    targets: list[Target]
    script_bytes: int
    script_cost: Cost | None


@app.command()
def bench(
    rounds: Annotated[int, typer.Option(min=1, max=10, help="How often each server has its turn.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, max=10, help="Length of a turn.")] = 2.0,
    smoke: Annotated[bool, typer.Option("--smoke", help="A small run that takes about 25 s.")] = False,
    directory: Directory = None,
    json: Json = False,
) -> None:
    """Measure the collector on this machine."""
    logs.configure(Log(level="warning"))
    if smoke:
        rounds, seconds = 1, 0.3
    shared = cores.shared_out()
    with ExitStack() as put_away:
        scratch = Path(put_away.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=directory)))
        put_away.enter_context(cores.on(shared.others))
        ready = put_away.enter_context(stage(scratch / "servers"))
        result = measure(ready.settings, shared, scratch, rounds, seconds)
    show(result, as_json=json)


def measure(settings: Settings, shared: Cores, scratch: Path, rounds: int, seconds: float) -> Result:
    """Runs everything once. UserError if a server refuses a page view, or if Kafka does not have all that were accepted."""
    with contest(settings, shared, scratch) as servers:
        for case in CASES:  # to warm up
            servers.turn(case, seconds / 2)
        turns = [{case: servers.turn(case, seconds) for case in CASES} for _ in range(rounds)]
        full = {case: _median([turn[case] for turn in turns]) for case in CASES}
        calm = [{case: servers.turn(case, seconds, full[case].hits_per_s / 2) for case in CASES} for _ in range(rounds)]
        half = {case: _median([turn[case] for turn in calm]) for case in CASES}
        servers.all_arrived()
    return Result(
        os.cpu_count() or 1,
        shared.measured != shared.others,
        servers.accepted,
        {str(case): speed for case, speed in full.items()},
        {str(case): speed for case, speed in half.items()},
        _targets(full, half),
        len(gzip.compress(_script(), mtime=0)),
        cost(scratch, _script(), rounds),
    )


def show(result: Result, *, as_json: bool) -> None:
    """Prints the result."""
    if as_json:
        output.print_json(asdict(result))
        return
    columns = ("", "#hits/s", "#hits/CPU s", "#p50 ms", "#p99 ms", "#client's core")
    output.print_table(columns, _rows(result.full), title="as fast as the answers come")
    output.print_table(columns, _rows(result.half), title="\nat half of that")
    rows = [(each.name, f"{each.wanted:,.2f}", f"{each.measured:,.2f}", "met" if each.met else "missed") for each in result.targets]
    output.print_table(("target", "#wanted", "#measured", ""), rows, title="\ntargets")
    output.print_table(("", "#"), _about(result), title="\nbesides")


def _rows(speeds: Mapping[str, Speed]) -> Iterator[tuple[str, ...]]:
    for name, speed in speeds.items():
        times = (f"{speed.p50_ms:.1f}", f"{speed.p99_ms:.1f}", f"{speed.client:.0%}")
        yield name, f"{speed.hits_per_s:,.0f}", f"{speed.hits_per_cpu_s:,.0f}", *times


def _about(result: Result) -> Iterator[tuple[str, str]]:
    yield "connections", f"{CONNECTIONS}"
    yield "cores", f"{result.cores}, {'one of them the server has for itself' if result.pinned else 'which server, client and Kafka share'}"
    yield "page views that the collector accepted, all of them in Kafka", f"{result.accepted['edge']:,}"
    yield "tracking script, gzipped", f"{result.script_bytes:,} bytes"
    found = result.script_cost
    yield (
        "CPU time that it adds to a page's load",
        f"{found.total_ms:.1f} ms" if found else "skipped: no chromium, chromedriver or selenium",
    )
    if found:
        yield "of it in the script itself", f"{found.script_ms:.1f} ms"


def _median(speeds: list[Speed]) -> Speed:
    """Of each measure for itself."""
    measures = [asdict(speed) for speed in speeds]
    return Speed(**{name: statistics.median(measure[name] for measure in measures) for name in measures[0]})


def _targets(full: Mapping[Case, Speed], half: Mapping[Case, Speed]) -> list[Target]:
    share = full[SINGLE].hits_per_s / full[BARE].hits_per_s
    cpu_share = full[SINGLE].hits_per_cpu_s / full[BARE].hits_per_cpu_s
    batched, cpu_batched = full[BATCHES].hits_per_s, full[BATCHES].hits_per_cpu_s
    return [
        Target(f"{SINGLE}: share of the bare application's hits/s", SHARE_OF_BARE, share, share >= SHARE_OF_BARE),
        Target(f"{SINGLE}: share of its hits/CPU s", SHARE_OF_BARE, cpu_share, cpu_share >= SHARE_OF_BARE),
        Target(f"{BATCHES}: hits/s", BATCHED_HITS_PER_S, batched, batched >= BATCHED_HITS_PER_S),
        Target(f"{BATCHES}: hits/CPU s", BATCHED_HITS_PER_S, cpu_batched, cpu_batched >= BATCHED_HITS_PER_S),
        *(Target(f"{case}: p99 at half load, ms", P99_MS, half[case].p99_ms, half[case].p99_ms < P99_MS) for case in (SINGLE, BATCHES)),
    ]


def _script() -> bytes:
    """For a portal that need not ask, so that it does all that it can."""
    return served_script.tracking(Portal(PortalId(hits.PORTAL), ("site.example",), mode=Mode.OFF)).body


if __name__ == "__main__":
    end(guarded(app, "python -m bench.edge"))
