"""What `replay` prints: text for people, or JSON. Data goes to stdout, progress to stderr."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich import progress as progress_bar
from rich.console import Console

from pipeline.output import moment, print_json, print_lines, print_table
from pipeline.replay.changes import Changes, Example
from pipeline.replay.diff import Diff
from pipeline.replay.estimate import Estimate
from pipeline.replay.overview import Described
from pipeline.replay.registry import Generation
from pipeline.replay.start import Begun, Progress
from pipeline.replay.what_if import WhatIf


@contextmanager
def rebuilding() -> Iterator[tuple[Begun, Progress]]:
    """Shows how far a replay is, on stderr: a bar on a terminal, else a line now and then. Gives what `replay start` calls."""
    console = Console(stderr=True)
    bar = progress_bar.Progress(
        progress_bar.TextColumn("{task.description}"),
        progress_bar.BarColumn(),
        progress_bar.MofNCompleteColumn(),
        progress_bar.TextColumn("{task.fields[rate]}"),
        progress_bar.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("rebuilding", total=None, rate="")
    pace: list[Pace] = []

    def begun(generation: Generation, goes_on: bool) -> None:  # noqa: FBT001 - the answer to "an earlier one?"
        about = generation.about
        what = f"generation {generation.number}"
        if goes_on:
            what = f"going on with {what}, begun {moment(about.begun_at)}"
        console.print(f"{what}: {about.records:,} raw records", highlight=False)
        pace.append(Pace(about.records, about.done))
        bar.update(task, total=about.records)

    def progress(records: int) -> None:
        said = pace[0].at(records)
        bar.update(task, completed=records, rate=f"{pace[0].rate:,.0f}/s")
        if said and not console.is_terminal:
            console.print(said, highlight=False)

    with bar:
        yield begun, progress


class Pace:
    """How fast something goes, in words, every few seconds."""

    _EVERY_S = 5.0

    def __init__(self, total: int, done: int = 0) -> None:
        self._total = total
        self._first = done
        self._started = self._said_at = time.monotonic()
        self.rate = 0.0

    def at(self, done: int) -> str | None:
        """What to say when so many are done; None if something was said a moment ago."""
        now = time.monotonic()
        self.rate = max(done - self._first, 0) / max(now - self._started, 0.001)
        if now - self._said_at < self._EVERY_S:
            return None
        self._said_at = now
        left = f", about {_span((self._total - done) / self.rate)} left" if self.rate and done < self._total else ""
        return f"{done:,} of {self._total:,} raw records, {self.rate:,.0f}/s{left}"


def estimate(found: Estimate, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    about = "very roughly" if found.is_rough else "about"
    print(f"{found.records:,} raw records, about {found.bytes:,} bytes; {about} {_span(found.seconds)} ({found.how})")
    print("nothing was done")


def built(generation: Generation, *, as_json: bool) -> None:
    about = generation.about
    if as_json:
        print_json({"generation": generation.number, "records": about.records, "seconds": round(about.seconds, 3)})
        return
    rate = about.records / about.seconds if about.seconds else 0.0
    print(f"generation {generation.number} is built: {about.records:,} raw records in {_span(about.seconds)} ({rate:,.0f}/s)")
    print(
        f"its parts follow from now on: `run` starts them by itself, on other machines it is `worker ROLE --generation {generation.number}`"
    )
    print("what readers would see: `replay diff`; have them see it: `replay switch`")


def generations(shown: Sequence[Described], *, as_json: bool) -> None:
    if as_json:
        print_json(shown)
        return
    rows = (
        (
            each.generation,
            "live" if each.live else "",
            _state(each),
            moment(each.built_at),
            each.behind,
            each.processes,
            each.events,
            each.contacts,
            each.sessions,
            ", ".join([*each.unusual, *([f"from {moment(each.since)}"] if each.since is not None else [])]) or "as usual",
        )
        for each in shown
    )
    columns = ("#generation", "readers", "state", "built", "#behind", "#processes", "#events", "#contacts", "#sessions", "policy")
    print_table(columns, rows)


def diff(found: Diff, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print(f"from generation {found.before}, which readers see, to generation {found.after}:")
    for number, words in found.behind.items():
        print(f"  generation {number} has not caught up, so that some of this is only not there yet: {words}")
    if found.since is not None:
        print(f"  generation {found.after} knows only what was published from {moment(found.since)} on: all before that is gone from it")
    _changes(found.changes)


def what_if(found: WhatIf, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    refused = f" ({found.refused} lines are no events)" if found.refused else ""
    print(f"{found.events} events{refused}, if they were published, in generation {found.generation}, which readers see:")
    _changes(found.changes)


def _changes(changes: Changes) -> None:
    for name, groups in changes.items():
        counts = Counter[str]()
        for group in groups:
            counts[group.what] += group.count
        said = ", ".join(f"{counts[what]:,} {what}" for what in ("new", "gone", "changed") if counts[what])
        print(f"{'events by owner' if name == 'events' else name}: {said or 'no change'}")
        for group in groups:
            rules = " -> ".join(dict.fromkeys(rule for rule in (group.rule_before, group.rule_after) if rule))
            print(f"  {group.count:,} {group.what}{f', {rules}' if rules else ''}; such as")
            print_lines(f"    {_example(example)}" for example in group.examples)


def _example(example: Example) -> str:
    """The key, and each field that differs."""
    before, after = example.before or {}, example.after or {}
    key = " ".join(str(value) for value in example.key.values())
    if not (before and after):
        return f"{key}: " + ", ".join(f"{name} {value}" for name, value in (before or after).items() if value not in (None, []))
    return f"{key}: " + ", ".join(f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name])


def _state(each: Described) -> str:
    if each.state != "building":
        return str(each.state)
    share = f"building, {each.done:,} of {each.records:,}"
    if not each.is_being_built:
        return f"{share}, stopped: `replay start` goes on"
    rate = each.done / each.seconds if each.seconds else 0.0
    return f"{share}, {rate:,.0f}/s" + (f", about {_span((each.records - each.done) / rate)} left" if rate else "")


def _span(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
