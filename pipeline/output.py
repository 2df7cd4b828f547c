"""What commands print: text for people, or JSON (`--json`) for programs. Everything here goes to stdout."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pipeline.adapters.acls import Applied
    from pipeline.effective import Effective
    from pipeline.letters import Letter, Requeued, Stat
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
    shown = Table(
        title=None if title is None else Text(title, style="table.title"),
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for column in columns:
        shown.add_column(column.removeprefix("#"), justify="right" if column.startswith("#") else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    console.print(shown)


def printable(line: str) -> str:
    """The line with escapes for what is no character to see: visitors' words must not command the terminal that shows them."""
    if line.isprintable():
        return line
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in line)


def print_lines(lines: Iterable[str]) -> None:
    """Each at once, on a line of its own."""
    for line in lines:
        print(printable(line), flush=True)


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

    print_table(
        ("time (UTC)", "what", "where", "#session", "whose, and why"), in_words(shown), title="\n".join(map(printable, shown.about))
    )


def status(status: "Status", *, as_json: bool) -> None:
    if as_json:
        print_json(status)
        return
    if status.generation > 1:
        print(f"generation {status.generation} (see `replay status`)")
    rows: list[Sequence[object]] = []
    for part in status.parts:
        rows.append((part.part, part.processes, "", part.lag_records, f"{part.lag_seconds:.1f}", moment(part.last_commit)))
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
    if status.retracted:
        print(f"retracted: {status.retracted} events (view retracted_events)")


def rights(applied: "Applied", *, dry_run: bool, as_json: bool) -> None:
    """What `topics acls` did; for people a line for each user, operation and kind."""
    if as_json:
        print_json({"granted": applied.granted, "removed": applied.removed, "dry_run": dry_run})
        return
    for did, changed in (
        ("would grant" if dry_run else "granted", applied.granted),
        ("would remove" if dry_run else "removed", applied.removed),
    ):
        for (user, operation, kind), of_these in groupby(changed, key=lambda right: (right.user, right.operation, right.kind)):
            names = ", ".join(f"{right.name}{'*' if right.is_prefix else ''}" for right in of_these)
            print(f"{did}: {user} may {operation} {kind} {names}")
    if not applied.granted and not applied.removed:
        print("every user has the rights that it needs, and no others")


def letter_stats(stats: Sequence["Stat"], *, as_json: bool) -> None:
    if as_json:
        print_json(stats)
    elif stats:
        rows = ((s.reason, s.topic or "(a line)", s.part, s.letters, moment(s.first), moment(s.last)) for s in stats)
        print_table(("reason", "topic", "refused by", "#letters", "first", "last"), rows)
    else:
        print("no dead letters")


def letters(shown: Iterable["Letter"], *, as_json: bool) -> None:
    """Without keys and values, which may be personal."""
    if as_json:
        print_json([_about(letter) for letter in shown])
        return
    rows = (
        (about["letter"], moment(letter.buried_at), about["reason"], _stood(letter), about["bytes"], about["error"])
        for letter in shown
        for about in [_about(letter)]
    )
    print_table(("letter", "refused", "reason", "stood in", "#bytes", "what is wrong"), rows)


def letter(shown: "Letter", *, as_json: bool) -> None:
    """One letter, with the bytes of the record (in JSON as Base64)."""
    if as_json:
        own = [{"name": name, "value": value} for name, value in shown.said.own]
        print_json(_about(shown) | {"key": shown.key, "value": shown.value, "headers": own})
        return
    rows = [*(_about(shown) | {"refused_at": moment(shown.buried_at)}).items()]
    rows += [(f"header {name}", _readable(value)) for name, value in shown.said.own]
    print_table(("", ""), [*rows, ("key", _readable(shown.key)), ("value", _readable(shown.value))])


def requeued(result: "Requeued", *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"back": result.back, "stay": result.stay, "dry_run": dry_run})
        return
    for topic, count in result.back.items():
        print(f"{'would go' if dry_run else 'went'} back to {topic}: {count}")
    for reason, count in result.stay.items():
        print(f"{'would stay' if dry_run else 'stayed'}, still {reason}: {count}")
    if not result.back and not result.stay:
        print("no such letters")
    elif dry_run:
        print("nothing was done yet: add --yes to do it")


def _about(letter: "Letter") -> dict[str, object]:
    said = letter.said
    return {
        "letter": f"{letter.partition}:{letter.offset}",
        "refused_at": letter.buried_at,
        "reason": said.reason,
        "error": said.error,
        "topic": said.topic or None,
        "partition": said.partition,
        "offset": said.offset,
        "timestamp": said.timestamp,
        "part": said.part,
        "version": said.version,
        "bytes": len(letter.value or b""),
    }


def _stood(letter: "Letter") -> str:
    said = letter.said
    return f"{said.topic}:{said.partition}:{said.offset}" if said.topic else f"line {said.offset}"


def _readable(value: bytes | None) -> str:
    """Text as it is, other bytes as hexadecimal digits, with what they say beside them."""
    if value is None:
        return "(null)"
    text = value.decode(errors="replace")
    if text.isprintable() and "\ufffd" not in text:
        return text
    return f"{value.hex(' ')}  " + "".join(character if character.isprintable() else "." for character in text)


def moment(epoch_ms: int | None) -> str:
    return "" if epoch_ms is None else datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={entry}" for key, entry in value.items())
    return "" if value is None else str(value)
