"""Events as rows of ClickHouse, and back: the one place that knows how `event_arrivals` and `event_rows` spell an event.

A row has the fields of all types. An absent text is empty, an absent time 0 (1970), an absent switch false, absent form fields an
empty list: none of these is a value that an event can have, but for switches, whose type says whether they mean anything.
"""

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import polars as pl
from clickhouse_driver import Client

from pipeline.adapters.native_blocks import Column
from pipeline.adapters.raw_batch import PAIRS, EventColumns
from pipeline.core.events import TYPES, Event, EventId, PortalId, Utk

MERGED = 1
"""`copy` of the row that several copies of an event say together."""

SWITCHES = frozenset({"new_browser_session", "bot", "create_new_contact", "use_cookie"})
TIMES = frozenset({"occurred_at", "received_at"})

FIELDS = tuple(dict.fromkeys(name for kind in TYPES.values() for name in kind.__struct_fields__))
"""Every field of any type, each once."""
_REQUIRED = frozenset({"event_id", "portal_id", "occurred_at"})

Columns = dict[str, Column]
"""Columns of one block by name, all of one length."""


class Copy(NamedTuple):
    """A copy of an event as it is stored: `copy` is the hash of what it says, `place` where its record is (partition, offset)."""

    event: Event
    copy: int
    place: tuple[int, int]


class Row(NamedTuple):
    """One row to write that is no arrival: a copy again or a merged event, at the version that it is true for."""

    portal_id: PortalId
    utk: Utk | None
    event_id: EventId
    copy: int
    version: int
    event: Event | None
    """None for a merged row that no longer is: its place is all that matters."""
    hidden: bool
    place: tuple[int, int] = (0, 0)


def arrivals(batch: EventColumns, partitions: Sequence[int], offsets: Sequence[int], check: int) -> Columns:
    """The block for events that have just come from `partitions` and `offsets` of their topic; `check` names the check that they await."""
    count = len(batch.rows)
    columns: Columns = {
        "type": pl.repeat(batch.type, count, dtype=pl.String, eager=True),
        "batch": pl.repeat(check, count, dtype=pl.UInt64, eager=True),
        "kafka_partition": pl.Series(partitions, dtype=pl.UInt64),
        "kafka_offset": pl.Series(offsets, dtype=pl.UInt64),
    }
    for name in TYPES[batch.type].__struct_fields__:
        values = batch.column(name)
        if name == PAIRS:
            columns[name] = _present(name, values)  # type: ignore[arg-type]
        elif isinstance(values, pl.Series) and _says_something(name, values):  # else the column's default says it
            columns[name] = values
    return columns


def together(blocks: Sequence[Columns]) -> Columns:
    """One block of several of arrivals."""
    if len(blocks) == 1:
        return blocks[0]
    names = dict.fromkeys(name for block in blocks for name in block)
    return {name: _joined(name, blocks) for name in names}


def rows(written: Sequence[Row]) -> Columns:
    """The block for rows that are no arrivals."""
    columns: Columns = {name: _present(name, [getattr(row.event, name, None) for row in written]) for name in FIELDS}
    columns["type"] = [row.event.type if row.event else "" for row in written]
    columns |= {name: [getattr(row, name) for row in written] for name in ("portal_id", "event_id", "copy", "version", "hidden")}
    columns["utk"] = [row.utk or "" for row in written]
    columns["kafka_partition"] = [row.place[0] for row in written]
    columns["kafka_offset"] = [row.place[1] for row in written]
    return columns


def insert(client: Client, columns: Columns) -> None:
    """One INSERT, one block: it is there as a whole, or not at all."""
    client.execute(f"INSERT INTO event_arrivals ({', '.join(columns)}) VALUES", list(columns.values()), columnar=True)


SELECTED = ", ".join(
    f"toUnixTimestamp64Milli({name}) AS {name}_ms" if name in TIMES else f"toString({name})" if name == "event_id" else name
    for name in ("type", *FIELDS)
)
"""What `event` needs of a row of `event_rows`, in this order."""


def event(values: Sequence[Any]) -> Event:
    """The event of a row that was selected with SELECTED."""
    row = dict(zip(("type", *FIELDS), values, strict=True))
    kind = TYPES[row["type"]]
    return kind(**{name: _value(name, row) for name in kind.__struct_fields__})


def events(client: Client, portal: PortalId, condition: str, **parameters: object) -> list[Event]:
    """The events of a portal for which the condition holds, each once, as its copies say it together."""
    return _read(client, portal, f"NOT hidden AND {condition}", parameters)


def copies(client: Client, portal: PortalId, condition: str, **parameters: object) -> list[Event]:
    """The different copies of events of a portal for which the condition holds, each once, whether readers see them or not."""
    return _read(client, portal, f"copy != {MERGED} AND {condition}", parameters)


def _read(client: Client, portal: PortalId, condition: str, parameters: Mapping[str, object]) -> list[Event]:
    query = f"SELECT {SELECTED} FROM event_rows FINAL WHERE portal_id = %(portal)s AND {condition}"
    return [event(row) for row in client.execute(query, {"portal": portal, **parameters})]


def _says_something(name: str, values: pl.Series) -> bool:
    return name in _REQUIRED or bool(values.any() if values.dtype == pl.Boolean else values.null_count() < len(values))


def _joined(name: str, blocks: Sequence[Columns]) -> Column:
    sizes = [len(block["type"]) for block in blocks]
    if name == PAIRS:
        return [value for block, size in zip(blocks, sizes, strict=True) for value in block.get(name, repeat(_absent(name), size))]
    there: pl.Series = next(block[name] for block in blocks if name in block)  # type: ignore[assignment]
    absent = (pl.repeat(None, size, dtype=there.dtype, eager=True) for size in sizes)
    return pl.concat([block.get(name, none) for block, none in zip(blocks, absent, strict=True)])  # type: ignore[type-var]


def _present(name: str, values: Sequence[Any]) -> Sequence[Any]:
    absent = _absent(name)
    return [value or absent for value in values]


def _absent(name: str) -> Any:
    return [] if name == PAIRS else 0 if name in SWITCHES or name in TIMES or name == "portal_id" else ""


def _value(name: str, row: Mapping[str, Any]) -> Any:
    value = row[name]
    if name in SWITCHES:
        return bool(value)
    if name == PAIRS and value:
        return tuple((pair[0], pair[1]) for pair in value)
    return value or None
