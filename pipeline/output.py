"""What commands print: text for people, or JSON (`--json`) for programs. Everything here goes to stdout."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pipeline.effective import Effective
    from pipeline.publish import Counts
    from pipeline.status import Status
    from pipeline.timelines import Timeline


def print_json(value: Any) -> None:
    """One JSON object, indented."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A table for people; rather wide when stdout is no terminal. Columns whose name starts with # are numbers."""
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200)
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column.removeprefix("#"), justify="right" if column.startswith("#") else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console.print(shown)


@contextmanager
def publishing() -> Iterator[Callable[["Counts"], None]]:
    """Shows, on a terminal, how many lines have been read; gives what `publish` wants to be called with."""
    console = Console(stderr=True)
    with console.status("publishing ...") if console.is_terminal else nullcontext() as shown:

        def progress(counts: "Counts") -> None:
            if shown is not None:
                shown.update(f"publishing ... {counts.lines:,} lines")

        yield progress


def done(verb: str, names: Iterable[str]) -> None:
    """What a command did to each of these: `applied 0001_events.sql`."""
    print("\n".join(f"{verb} {name}" for name in names) or "nothing to do")


def settings(effective: Iterable["Effective"], *, as_json: bool) -> None:
    if as_json:
        print_json({setting.name: setting.as_dict() for setting in effective})
        return
    print_table(("setting", "value", "from"), ((s.name, _value(s.value), s.where or s.source) for s in effective))


def counts(published: Mapping[str, int], refused: Mapping[str, int], *, as_json: bool) -> None:
    """What `publish` did, by event type and by reason of refusal."""
    if as_json:
        print_json({"published": dict(published), "refused": dict(refused)})
        return
    rows = [("published", name, count) for name, count in published.items()] + [("refused", name, count) for name, count in refused.items()]
    print_table(("", "", "#count"), rows)


def timeline(shown: "Timeline", *, as_json: bool) -> None:
    """A contact's or a cookie's events: a table, or one JSON object a line."""
    if as_json:
        sys.stdout.buffer.writelines(msgspec.json.encode(entry) + b"\n" for entry in shown)
        sys.stdout.flush()
        return
    from pipeline.timelines import in_words

    print_table(("time (UTC)", "what", "where", "#session", "whose, and why"), in_words(shown), title="\n".join(shown.about))


def status(status: "Status", *, as_json: bool) -> None:
    if as_json:
        print_json(status)
        return
    rows: list[Sequence[object]] = []
    for part in status.parts:
        rows.append((part.part, part.processes, "", part.lag_records, f"{part.lag_seconds:.1f}", _moment(part.last_commit)))
        rows += [("", "", topic.topic, topic.lag_records, f"{topic.lag_seconds:.1f}", "") for topic in part.topics if topic.lag_records]
    print_table(("part", "#processes", "behind in", "#records", "#seconds", "last commit"), rows)
    for part in status.parts:
        if part.late:
            print(f"{part.part}: {part.late} events came too late for live sessions (sessions.retention); a replay sets them right")
    if status.refused is None:
        print(f"refused: unknown ({status.problem})")
        return
    for name, reasons in status.refused.items():
        print(f"refused by {name}: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items()))
    if not status.refused:
        print("refused: nothing")


def _moment(epoch_ms: int | None) -> str:
    return "" if epoch_ms is None else datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={entry}" for key, entry in value.items())
    return "" if value is None else str(value)
