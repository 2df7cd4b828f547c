"""A batch of raw records as events in columns (spec: events.md, "Refused records").

There are three ways, the fast one first, and all give the same (few records go the third way: columns cost 3 ms to begin with):
1. records that are whole and in normal form are events as they stand: columns, checked as columns;
2. records that are whole but not in normal form: columns, then `parse_avro`;
3. all others (damaged, mostly), and those of schemas that columns cannot hold: one at a time, then `parse_avro`.
A record that cannot become an event is refused; its neighbours do not notice.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import compress
from typing import Any

import msgspec
import polars as pl

from pipeline.adapters.avro_columns import HEADER_BYTES, MAX_BYTES, Kind, kinds
from pipeline.adapters.avro_reader import SchemaReader, UnreadableError
from pipeline.adapters.contracts import load_schemas, load_topics
from pipeline.adapters.normal_form import in_normal_form
from pipeline.core.events import TYPES, Event
from pipeline.core.outcomes import Reason, Refused
from pipeline.core.parsing import parse_avro

PAIRS = "fields"
"""The one field that is no plain value."""
_TYPES: dict[str, type[pl.DataType]] = (
    dict.fromkeys(("portal_id", "occurred_at", "received_at"), pl.Int64)
    | dict.fromkeys(("new_browser_session", "bot", "create_new_contact", "use_cookie"), pl.Boolean)
    | {PAIRS: pl.Object}
)
"""Types of columns that are no texts."""
FEW = 64
"""Up to so many records of a schema are read one at a time."""
_TOO_LARGE = Refused(Reason.TOO_LARGE, f"the value: expected at most {MAX_BYTES} bytes")
_NO_VALUE = Refused(Reason.MALFORMED_AVRO, "the value: expected Avro, not null")


class EventColumns:
    """Events of one type, and their positions (`rows`) in the batch; as they were read, in columns (`table`) or one by one."""

    def __init__(self, type_name: str, rows: list[int], read: pl.DataFrame | list[Event]) -> None:
        self.type = type_name
        self.rows = rows
        self.table = read if isinstance(read, pl.DataFrame) else None
        self._events = None if isinstance(read, pl.DataFrame) else read

    def events(self) -> list[Event]:
        return list(map(TYPES[self.type], *self.columns.values())) if self._events is None else self._events

    def event(self, place: int) -> Event:
        """The event at a place of `rows`."""
        if self._events is not None:
            return self._events[place]
        return TYPES[self.type](*(values[place] for values in self.columns.values()))

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """Every field of the type as a list, in its order; absent is None."""
        if self.table is not None:
            return _as_lists(self.type, self.table)
        columns = zip(*map(msgspec.structs.astuple, self._events or ()), strict=True)
        return dict(zip(TYPES[self.type].__struct_fields__, map(list, columns), strict=True))

    def column(self, name: str) -> pl.Series | list[Any]:
        """A field of the type as a column of polars, null where it is absent; the pairs of form fields as a list."""
        if self.table is None:
            values = self.columns[name]
            return values if name == PAIRS else pl.Series(name, values, _TYPES.get(name, pl.String))
        if name not in self.table.columns:
            return pl.repeat(None, self.table.height, dtype=_TYPES.get(name, pl.String), eager=True)
        return self.table[name].to_list() if name == PAIRS else self.table[name]

    def cookies(self) -> pl.Series:
        """The utk of each event as bytes, null where it has none."""
        if self.table is not None and "utk" in self.table.columns:
            return self.table["utk"].cast(pl.Binary)
        return pl.Series([event.utk and event.utk.encode() for event in self._events or ()], dtype=pl.Binary).extend_constant(
            None, len(self.rows) - len(self._events or ())
        )

    def frame(self) -> pl.DataFrame:
        """The fields as columns of polars; the pairs of form fields are objects."""
        if self.table is not None:
            return self.table
        names = [field["name"] for field in load_schemas()[self.type][-1].json["fields"]]
        return pl.DataFrame([pl.Series(name, self.columns[name], _TYPES.get(name, pl.String)) for name in names])


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a batch holds: each position is in exactly one of `batches`, or in `refused`. A type may have several batches."""

    batches: list[EventColumns] = field(default_factory=list)
    refused: list[tuple[int, Refused]] = field(default_factory=list)


def decode_events(values: Sequence[bytes | None], reader: Callable[[bytes], SchemaReader | Refused], topic: str | None = None) -> Decoded:
    """The events of a batch. `reader` knows the schema by the first bytes; records of types that are not `topic`'s are refused."""
    decoded = Decoded()
    parsed: list[tuple[int, Event]] = []
    present = _present(values, decoded.refused)
    for header, rows in by_header(values, present).items():
        schema = reader(header)
        refusal = schema if isinstance(schema, Refused) else _misplaced(schema.record, topic)
        if refusal is not None:
            decoded.refused.extend((row, refusal) for row in rows)
            continue
        assert isinstance(schema, SchemaReader)
        theirs = values if len(rows) == len(values) else [values[row] for row in rows]
        for row, outcome in _outcomes(schema, rows, theirs, decoded.batches):  # type: ignore[arg-type]  # no nulls among them
            if isinstance(outcome, Refused):
                decoded.refused.append((row, outcome))
            else:
                parsed.append((row, outcome))
    decoded.batches.extend(in_columns(parsed))
    decoded.refused.sort(key=lambda entry: entry[0])
    return decoded


def by_header(values: Sequence[bytes | None], rows: Sequence[int]) -> dict[bytes, Sequence[int]]:
    """Positions of the values by the framing that they begin with; mostly there is one."""
    headers = [value[:HEADER_BYTES] for value in values if value is not None] if len(rows) == len(values) else []
    if len(set(headers)) == 1:
        return {headers[0]: rows}
    groups: dict[bytes, Sequence[int]] = {}
    for row in rows:
        groups.setdefault(values[row][:HEADER_BYTES], []).append(row)  # type: ignore[index, attr-defined]  # lists of rows with values
    return groups


def _present(values: Sequence[bytes | None], refused: list[tuple[int, Refused]]) -> Sequence[int]:
    """Positions of the values that are there and not too large."""
    if None not in values and max(map(len, values), default=0) <= MAX_BYTES:  # type: ignore[arg-type]
        return range(len(values))
    present = []
    for row, value in enumerate(values):
        if value is not None and len(value) <= MAX_BYTES:
            present.append(row)
        else:
            refused.append((row, _NO_VALUE if value is None else _TOO_LARGE))
    return present


def _misplaced(record: str, topic: str | None) -> Refused | None:
    expected = TYPES.keys() if topic is None else load_topics()[topic].schemas
    if record in TYPES and record in expected:
        return None
    return Refused(Reason.UNKNOWN_TYPE, f"the schema is of the record {record}: expected one of {', '.join(expected)}")


def _outcomes(
    schema: SchemaReader, rows: Sequence[int], values: Sequence[bytes], batches: list[EventColumns]
) -> Iterable[tuple[int, Event | Refused]]:
    """Adds what is in normal form to `batches`, and gives what became of the others."""
    in_columns = len(values) > FEW and _has_our_types(schema)
    whole, frame, rest = schema.read(values) if in_columns else ([], pl.DataFrame(), list(range(len(values))))
    if whole:
        today = _today(schema.record, frame)
        normal = in_normal_form(schema.record, today)
        newer = set(frame.columns).difference(today.columns)
        for name in newer:
            normal &= frame[name].is_null()
        if normal.all():
            taken = [rows[at] for at in whole] if rest else list(rows)
            batches.append(EventColumns(schema.record, taken, today))
        else:
            taken = [rows[at] for at in compress(whole, normal)]
            batches.append(EventColumns(schema.record, taken, today.filter(normal)))
            odd = list(compress(whole, ~normal))
            records = map(schema.read_one, (values[at] for at in odd)) if newer else today.filter(~normal).iter_rows(named=True)
            for at, record in zip(odd, records, strict=True):
                yield rows[at], parse_avro(schema.record, record)
    for at in rest:
        try:
            yield rows[at], parse_avro(schema.record, schema.read_one(values[at]))
        except UnreadableError as error:
            yield rows[at], Refused(Reason.MALFORMED_AVRO, f"the value: {error}")


def _has_our_types(schema: SchemaReader) -> bool:
    """Whether its fields, as far as we know them, are of the types of today's schema: a producer's own may say anything."""
    ours = _kinds(schema.record)
    return all(ours.get(name, kind) == kind for name, kind in schema.kinds.items())


@cache
def _kinds(record: str) -> dict[str, Kind]:
    return kinds(load_schemas()[record][-1].json)


def _today(record: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The columns of today's schema: what another version lacks has its default, or is absent."""
    fields = {field["name"]: field for field in load_schemas()[record][-1].json["fields"]}
    missing = fields.keys() - set(frame.columns)
    defaults = [pl.Series(name, [fields[name].get("default")] * frame.height, _TYPES.get(name, pl.String)) for name in missing]
    return frame.with_columns(defaults).select(*fields)


def _as_lists(type_name: str, frame: pl.DataFrame) -> dict[str, list[Any]]:
    absent = [None] * frame.height
    names = TYPES[type_name].__struct_fields__
    known = {name for name in frame.columns if frame[name].null_count() < frame.height}
    return {name: frame[name].to_list() if name in known else absent for name in names}


def in_columns(events: Iterable[tuple[int, Event]]) -> Iterator[EventColumns]:
    """Events, each with its position in the batch, by type."""
    by_type: dict[str, list[tuple[int, Event]]] = {}
    for row, event in events:
        by_type.setdefault(event.type, []).append((row, event))
    for type_name, of_type in by_type.items():
        yield EventColumns(type_name, [row for row, _ in of_type], [event for _, event in of_type])
