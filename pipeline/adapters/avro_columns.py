"""Columns of a batch of Avro records that were written with one flat schema.

Columns come from polars, which is fast and trusting: it reads past a damaged record into its neighbour, takes any byte
for a boolean and aborts on a size that is too large. So a walk over the bytes goes first, for all records at once, one
field after the other: each record of a batch has a position, which moves on by the field's size. Records that do not
end where they should, and those that the walk does not know, are left out: `avro_reader` reads them one by one.

Polars has no columns for the fields of forms, which are pairs of texts in their order. They are read one by one while the walk goes over
them, and polars is given the record without them.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.adapters.avro_writer import writer

Kind = Literal["string", "long", "boolean", "pairs", "other"]
Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MAX_BYTES = 1_000_000
"""No record is larger (spec: events.md, too_large), so no text in it is."""

HEADER_BYTES = 5
"""Confluent framing: a zero byte and the schema id, before the Avro bytes."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a flat record. `pairs` is an optional array of records of a name and a value; `other` is an optional value of any
    other type, of which only its absence can be read in columns.
    """

    name: str
    kind: Kind
    optional: bool


def flat_fields(schema: Mapping[str, Any]) -> tuple[Field, ...] | None:
    """The fields of a record that can be read in columns, None if it is of another shape."""
    fields = []
    for field in schema["fields"]:
        optional = isinstance(field["type"], list) and len(field["type"]) == 2 and field["type"][0] == "null"
        inner = field["type"][1] if optional else field["type"]
        inner = inner["type"] if isinstance(inner, dict) and inner["type"] in ("string", "long", "boolean") else inner
        kind: Kind = inner if inner in ("string", "long", "boolean") else "pairs" if _are_pairs(inner) else "other"
        if kind in ("pairs", "other") and not optional:
            return None
        fields.append(Field(field["name"], kind, optional))
    return tuple(fields)


def kinds(schema: Mapping[str, Any]) -> dict[str, Kind]:
    """The kind of each field of a record that can be read in columns, by name; none of another."""
    return {field.name: field.kind for field in flat_fields(schema) or ()}


def _are_pairs(schema: Any) -> bool:
    fields = schema["items"].get("fields", ()) if isinstance(schema, dict) and isinstance(schema.get("items"), dict) else ()
    return [(field["name"], field["type"]) for field in fields] == [("name", "string"), ("value", "string")]


class ColumnReader:
    """Reads batches of records that were written with one flat schema."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = fields
        self._container = _container(fields)

    def read(self, values: Sequence[bytes]) -> tuple[list[int], pl.DataFrame]:
        """The framed records that can be read in columns: their positions in `values`, and their fields.

        Columns are Int64, Boolean, String (all null for `other`), and Object for `pairs`: a tuple of pairs, null if it is empty or absent.
        Whoever is missing among the positions is damaged, or has something that columns cannot hold.
        """
        sizes = np.fromiter(map(len, values), np.int64, len(values))
        ends = np.cumsum(sizes)
        body = b"".join(values)
        walk = _Walk(body, ends - sizes + HEADER_BYTES, ends)
        for field in self._fields:
            walk.field(field)
        good = walk.good & (walk.at == ends)
        rows = list(range(len(values)))
        if not good.all():
            rows = np.flatnonzero(good).tolist()
            body = b"".join(compress(values, good))
        if not rows:
            return [], pl.DataFrame()
        if walk.pairs:
            body = b"".join(_without_pairs(values[row], walk.pairs.get(row, ())) for row in rows)
        frame = self._container.read(len(rows), body)
        pairs = [_column_of_pairs(field.name, rows, walk.pairs) for field in self._fields if field.kind == "pairs"]
        return _texts(rows, frame.with_columns(pairs))


Pairs = tuple[tuple[str, str], ...]


class _Place(NamedTuple):
    """The pairs of a field, and where they are in their record: from the mark that they are there to their end."""

    field: str
    begin: int
    end: int
    pairs: Pairs


def _without_pairs(value: bytes, places: Sequence[_Place]) -> bytes:
    """The record as if these fields were absent."""
    at = 0
    pieces: list[bytes] = []
    for place in places:
        pieces += value[at : place.begin], _NULL
        at = place.end
    return b"".join([*pieces, value[at:]])


def _column_of_pairs(field: str, rows: Sequence[int], found: Mapping[int, Sequence[_Place]]) -> pl.Series:
    pairs = {row: place.pairs for row, places in found.items() for place in places if place.field == field}
    return pl.Series(field, [pairs.get(row) or None for row in rows], pl.Object)


def _pairs(body: bytes, at: int, end: int) -> tuple[Pairs, int]:
    """The pairs of an array of one block, which begins at `at`, and where it ends. ValueError if it is something else, or goes on
    beyond `end`.
    """
    pairs = []
    count, at = _size(body, at, end)
    for _ in range(count):
        name, at = _text(body, at, end)
        value, at = _text(body, at, end)
        pairs.append((name, value))
    if count:
        more, at = _size(body, at, end)
        if more:
            raise ValueError("an array of several blocks")
    return tuple(pairs), at


def _text(body: bytes, at: int, end: int) -> tuple[str, int]:
    size, at = _size(body, at, end)
    if at + size > end:
        raise ValueError("a text beyond its record")
    return body[at : at + size].decode(), at + size


def _size(body: bytes, at: int, end: int) -> tuple[int, int]:
    """A number that is not negative, and where it ends."""
    number = 0
    for shift in range(0, 63, 7):
        if at >= end:
            break
        octet = body[at]
        at += 1
        number |= (octet & 0x7F) << shift
        if octet <= 0x7F:
            if number & 1:
                break
            return number >> 1, at
    raise ValueError("no size")


class _Walk:
    """A position in each of many records, which end at `ends`. A record that is not `good` may be anywhere."""

    def __init__(self, body: bytes, at: Numbers, ends: Numbers) -> None:
        self._body = body
        self._octets = np.frombuffer(body, np.uint8)
        self._starts = at - HEADER_BYTES
        self._ends = ends
        self.at = at
        self.good = np.ones(len(at), np.bool_)
        self.pairs: dict[int, list[_Place]] = {}
        """By the number of the record, in the order of the fields."""

    def field(self, field: Field) -> None:
        """Steps over a field of each record."""
        if field.kind == "pairs":
            self._take_pairs(field.name)
        elif field.optional:
            self._optional(field.kind)
        else:
            self._value(field.kind)

    def _take_pairs(self, field: str) -> None:
        mark = self._octet()
        there = mark == 2
        self._expect(there | (mark == 0))
        for row in np.flatnonzero(there & self.good).tolist():
            start, at = int(self._starts[row]), int(self.at[row])
            try:
                pairs, self.at[row] = _pairs(self._body, at, int(self._ends[row]))
            except ValueError:
                self.good[row] = False
            else:
                self.pairs.setdefault(row, []).append(_Place(field, at - 1 - start, int(self.at[row]) - start, pairs))

    def _optional(self, kind: Kind) -> None:
        """Steps over the mark, and over the value where the mark says that there is one."""
        mark = self._octet()
        there = mark == 2
        self._expect(there | (mark == 0))
        if kind == "other":
            self._expect(~there)
        elif there.all():
            self._value(kind)
        elif there.any():
            rows = np.flatnonzero(there)
            inside = _Walk(self._body, self.at[rows], self._ends[rows])
            inside._value(kind)
            self.at[rows] = inside.at
            self.good[rows] &= inside.good

    def _value(self, kind: Kind) -> None:
        if kind == "boolean":
            self._expect(self._octet() <= 1)
            return
        number = self._varint()
        if kind == "string":
            size = number >> 1
            fits = (number & 1 == 0) & (size <= MAX_BYTES)
            self._expect(fits)
            self.at = self.at + np.where(fits, size, 0)

    def _octet(self) -> Bytes:
        """The byte under each position. A position past the end repeats the last byte, and shows in the end."""
        octet = self._octets.take(self.at, mode="clip")
        self.at = self.at + 1
        return octet

    def _varint(self) -> Numbers:
        """An unsigned integer of up to nine bytes; longer ones are left to the other reader."""
        octet = self._octet()
        number = octet.astype(np.int64)
        more = octet > 0x7F
        if not more.any():
            return number
        number &= 0x7F
        for shift in range(7, 63, 7):
            rows = np.flatnonzero(more)
            if not len(rows):
                break
            octet = self._octets.take(self.at[rows], mode="clip")
            self.at[rows] += 1
            number[rows] |= (octet & 0x7F).astype(np.int64) << shift
            more[rows] = octet > 0x7F
        self._expect(~more)
        return number

    def _expect(self, holds: Flags) -> None:
        if not holds.all():
            self.good &= holds


@dataclass(frozen=True, slots=True)
class _Container:
    """An Avro container file around framed records, made in memory: the five bytes before each are a field of it too."""

    head: bytes
    columns: list[str]

    def read(self, count: int, body: bytes) -> pl.DataFrame:
        long = writer("long")
        file = b"".join((self.head, long(count), long(len(body)), body, _SYNC))
        return pl.read_avro(io.BytesIO(file), columns=self.columns)


_SYNC = bytes(16)
_NULL = b"\x00"
"""The mark of an optional value that is absent."""


def _container(fields: Sequence[Field]) -> _Container:
    """Texts are read as bytes: polars takes the UTF-8 of texts on trust."""
    kinds = {"string": "bytes", "pairs": "bytes", "other": "bytes", "long": "long", "boolean": "boolean"}
    inner = [{"name": f.name, "type": ["null", kinds[f.kind]] if f.optional else kinds[f.kind]} for f in fields]
    header = {"name": "_header", "type": {"type": "fixed", "name": "header", "size": HEADER_BYTES}}
    schema = msgspec.json.encode({"type": "record", "name": "framed", "fields": [header, *inner]}).decode()
    text, long = writer("string"), writer("long")
    metadata = long(2) + text("avro.schema") + text(schema) + text("avro.codec") + text("null") + long(0)
    return _Container(b"Obj\x01" + metadata + _SYNC, [field.name for field in fields])


def _texts(rows: list[int], frame: pl.DataFrame) -> tuple[list[int], pl.DataFrame]:
    """Bytes as texts; without the records that have a text that is not UTF-8."""
    texts = pl.col(pl.Binary).cast(pl.String)
    try:
        return rows, frame.with_columns(texts)
    except pl.exceptions.ComputeError:
        valid = [all(map(_is_utf_8, record)) for record in frame.select(pl.col(pl.Binary)).iter_rows()]
        return list(compress(rows, valid)), frame.filter(pl.Series(valid, dtype=pl.Boolean)).with_columns(texts)


def _is_utf_8(text: bytes | None) -> bool:
    try:
        (text or b"").decode()
    except UnicodeDecodeError:
        return False
    return True
