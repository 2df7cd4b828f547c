"""Reads Avro binary: a whole batch of records into columns, or one record at a time.

Columns come from polars, which is fast and trusting: it reads past a damaged record into its neighbour, takes any byte
for a boolean and aborts on a size that is too large. So a walk over the bytes goes first, for all records at once, one
field after the other: each record of a batch has a position, which moves on by the field's size. Records that do not
end where they should, and those that the walk does not know (arrays), are left to the reader of single records.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Literal

import fastavro
import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.adapters.avro_writer import writer

Kind = Literal["string", "long", "boolean", "other"]
Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MAX_BYTES = 1_000_000
"""No record is larger (spec: events.md, too_large), so no text in it is."""

HEADER_BYTES = 5
"""Confluent framing: a zero byte and the schema id, before the Avro bytes."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a flat record. `other` is an optional value of any other type: only its absence can be read in columns."""

    name: str
    kind: Kind
    optional: bool


class UnreadableError(Exception):
    """The bytes are not a record of their schema. The message says what is wrong, never what the bytes contain."""


def flat_fields(schema: Mapping[str, Any]) -> tuple[Field, ...] | None:
    """The fields of a record that can be read in columns, None if it is of another shape."""
    fields = []
    for field in schema["fields"]:
        optional = isinstance(field["type"], list) and len(field["type"]) == 2 and field["type"][0] == "null"
        inner = field["type"][1] if optional else field["type"]
        inner = inner["type"] if isinstance(inner, dict) and inner["type"] in ("string", "long", "boolean") else inner
        kind: Kind = inner if inner in ("string", "long", "boolean") else "other"
        if kind == "other" and not optional:
            return None
        fields.append(Field(field["name"], kind, optional))
    return tuple(fields)


class ColumnReader:
    """Reads batches of records that were written with one flat schema."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = fields
        self._container = _container(fields)

    def read(self, values: Sequence[bytes]) -> tuple[list[int], pl.DataFrame]:
        """The framed records that can be read in columns: their positions in `values`, and their fields.

        Columns are Int64, Boolean and String (all null for `other`). Whoever is missing among the positions is damaged, or
        has something that columns cannot hold.
        """
        sizes = np.fromiter(map(len, values), np.int64, len(values))
        body = b"".join(values)
        good = self._walk(body, sizes)
        rows = list(range(len(values)))
        if not good.all():
            rows = np.flatnonzero(good).tolist()
            body = b"".join(compress(values, good))
        if not rows:
            return [], pl.DataFrame()
        return _texts(rows, self._container.read(len(rows), body))

    def _walk(self, body: bytes, sizes: Numbers) -> Flags:
        """Which records are canonical Avro from their first byte to their last, and have no `other`."""
        octets = np.frombuffer(body, np.uint8)
        ends = np.cumsum(sizes)
        walk = _Walk(octets, ends - sizes + HEADER_BYTES)
        for field in self._fields:
            if field.optional:
                walk.optional(field.kind)
            else:
                walk.value(field.kind)
        arrived: Flags = walk.at == ends
        return walk.good & arrived


class _Walk:
    """A position in each of many records. A record that is not `good` may be anywhere."""

    def __init__(self, octets: Bytes, at: Numbers) -> None:
        self._octets = octets
        self.at = at
        self.good = np.ones(len(at), np.bool_)

    def optional(self, kind: Kind) -> None:
        """Steps over the mark, and over the value where the mark says that there is one."""
        mark = self._octet()
        there = mark == 2
        self._expect(there | (mark == 0))
        if kind == "other":
            self._expect(~there)
        elif there.all():
            self.value(kind)
        elif there.any():
            rows = np.flatnonzero(there)
            inside = _Walk(self._octets, self.at[rows])
            inside.value(kind)
            self.at[rows] = inside.at
            self.good[rows] &= inside.good

    def value(self, kind: Kind) -> None:
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


def _container(fields: Sequence[Field]) -> _Container:
    """Texts are read as bytes: polars takes the UTF-8 of texts on trust."""
    kinds = {"string": "bytes", "other": "bytes", "long": "long", "boolean": "boolean"}
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


class SchemaReader:
    """Reads records that were written with one schema. Raises whatever fastavro raises if the schema is none."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.record: str = schema["name"]
        fields = flat_fields(schema)
        self._columns = ColumnReader(fields) if fields else None
        self._schema = fastavro.parse_schema(without_logical_types(schema))

    def read(self, values: Sequence[bytes]) -> tuple[list[int], pl.DataFrame, list[int]]:
        """Framed records: the positions of those that can be read in columns, their columns, and the other positions."""
        if self._columns is None:
            return [], pl.DataFrame(), list(range(len(values)))
        whole, frame = self._columns.read(values)
        missing = sorted(set(range(len(values))).difference(whole)) if len(whole) < len(values) else []
        return whole, frame, missing

    def read_one(self, value: bytes) -> dict[str, Any]:
        """One framed record. UnreadableError if the bytes are not exactly that."""
        payload = io.BytesIO(value)
        payload.seek(HEADER_BYTES)
        try:
            record = fastavro.schemaless_reader(payload, self._schema, None)
        except Exception as error:  # noqa: BLE001 - whatever the bytes make of fastavro, which never reserves more than they hold
            raise UnreadableError(f"expected a record of its schema ({type(error).__name__})") from None
        if payload.tell() != len(value):
            raise UnreadableError(f"expected nothing after the record, found {len(value) - payload.tell()} bytes")
        return record  # type: ignore[return-value]  # the schema is a record's


def without_logical_types(schema: Any) -> Any:
    """The same schema with plain numbers for times, so that no reader makes dates of them."""
    if isinstance(schema, Mapping):
        return {name: without_logical_types(value) for name, value in schema.items() if name != "logicalType"}
    if isinstance(schema, list):
        return [without_logical_types(member) for member in schema]
    return schema


def has_empty_items(schema: Any) -> bool:
    """Whether an array in the schema could have items of no bytes: a few bytes could then ask for a billion of them."""
    if isinstance(schema, list):
        return any(map(has_empty_items, schema))
    if not isinstance(schema, Mapping):
        return False
    if schema.get("type") == "array" and _can_be_empty(schema["items"]):
        return True
    inner = [schema.get("type"), schema.get("items"), schema.get("values"), *(field["type"] for field in schema.get("fields", ()))]
    return any(map(has_empty_items, inner))


_NEVER_EMPTY = {"boolean", "int", "long", "float", "double", "bytes", "string", "array", "map", "enum"}


def _can_be_empty(schema: Any) -> bool:
    """Whether a value may take no bytes. A name stands for a type defined elsewhere: we say yes."""
    if isinstance(schema, Mapping):
        if schema.get("type") == "record":
            return all(_can_be_empty(field["type"]) for field in schema["fields"])
        if schema.get("type") == "fixed":
            return not schema["size"]
        return _can_be_empty(schema["type"])
    return isinstance(schema, str) and schema not in _NEVER_EMPTY
