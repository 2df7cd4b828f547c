"""Records as Avro under their schema's id (spec: events.md): a zero byte, the id (4 bytes, big-endian), Avro binary.

Ids come from a Confluent-compatible registry or, without one, from the files in `schemas/`: then all processes agree on
them because the files say them. Batches of raw records are read in `raw_batch`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import polars as pl

from pipeline.adapters import avro_frames
from pipeline.adapters.avro_columns import flat_fields
from pipeline.adapters.avro_reader import SchemaReader, UnreadableError, has_empty_items
from pipeline.adapters.avro_writer import Writer, writer
from pipeline.adapters.contracts import SchemaVersion, load_schemas
from pipeline.adapters.raw_batch import Decoded, EventColumns, by_header, decode_events
from pipeline.core.events import WITHOUT_COOKIE, Event
from pipeline.core.outcomes import Reason, Refused
from pipeline.settings import Settings

__all__ = ["Decoded", "EventColumns", "Registry", "UnreadableError"]

_values = msgspec.structs.astuple
_UTK = Event.__struct_fields__.index("utk")
"""Where an event has its utk, if its schema has one."""


class Registry:
    """The schemas that a Kafka's records have, and the way from records to bytes and back.

    Building one registers our schemas, and waits while a configured registry does not answer: `wait_s`, or for ever. Without `wait_s` (in
    a worker) it is also given some seconds to learn an id that it does not know (see `schema_ids`).
    UserError if the registry refuses us or our schemas, or the wait was in vain.
    """

    def __init__(self, settings: Settings, wait_s: float | None = None) -> None:
        self._ids = _ids(settings, wait_s)
        self._readers: dict[int, SchemaReader] = {}
        self._headers: dict[str, bytes] = {}
        self._writers: dict[str, Writer] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        for record, versions in load_schemas().items():
            for version in versions:
                self._readers[self._ids.of(version)] = SchemaReader(version.json)
            today = versions[-1]
            self._headers[record] = _header(self._ids.of(today))
            self._writers[record] = writer(today.json)
            self._names[record] = tuple(field["name"] for field in today.json["fields"])

    def encode_event(self, event: Event) -> bytes:
        values = _values(event)
        if type(event) in WITHOUT_COOKIE:
            values = values[:_UTK] + values[_UTK + 1 :]
        return self._headers[event.type] + self._writers[event.type](values)

    def encode_events(self, events: Iterable[Event]) -> list[bytes]:
        return list(map(self.encode_event, events))

    def encode(self, record: str, fields: Mapping[str, Any]) -> bytes:
        """A derived record (session, contact ...). ValueError or KeyError if the fields are not exactly its schema's."""
        names = self._names[record]
        if len(fields) != len(names):
            raise ValueError(f"a {record} has the fields {', '.join(names)}; given are {', '.join(fields)}")
        return self._headers[record] + self._writers[record]([fields[name] for name in names])

    def encode_frame(self, record: str, records: pl.DataFrame) -> list[bytes]:
        """Derived records of a flat schema that are given as columns, in the order of its fields: faster than one by one."""
        fields = flat_fields(load_schemas()[record][-1].json)
        assert fields is not None, f"a {record} is not flat"
        header = self._headers[record]
        return [header + value for value in avro_frames.encoded(records, fields)]

    def decode(self, value: bytes) -> dict[str, Any]:
        """A derived record with the fields that it was written with. UnreadableError if the bytes are no record of a known schema."""
        return self.decode_many([value])[0]

    def decode_many(self, values: Sequence[bytes]) -> list[dict[str, Any]]:
        """Derived records in their order, much faster than one by one. UnreadableError if the bytes of one are no record."""
        records: list[dict[str, Any]] = [{}] * len(values)
        for header, rows in by_header(values, range(len(values))).items():
            reader = self.reader(header)
            if isinstance(reader, Refused):
                raise UnreadableError(reader.detail)
            whole, frame, rest = reader.read([values[row] for row in rows])
            for position, record in zip(whole, frame.iter_rows(named=True), strict=True):
                records[rows[position]] = record
            for position in rest:
                records[rows[position]] = reader.read_one(values[rows[position]])
        return records

    def decode_columns(self, values: Sequence[bytes]) -> dict[str, list[Any]]:
        """Derived records of one topic as columns, in their order. UnreadableError if the bytes of one are no record."""
        if len({value[: len(_header(0))] for value in values}) == 1:
            reader = self.reader(values[0][: len(_header(0))])
            if isinstance(reader, SchemaReader):
                _, frame, rest = reader.read(values)
                if not rest:
                    return {name: frame[name].to_list() for name in frame.columns}
        records = self.decode_many(values)
        names = dict.fromkeys(name for record in records for name in record)
        return {name: [record.get(name) for record in records] for name in names}

    def decode_events(self, values: Sequence[bytes | None], topic: str | None = None) -> Decoded:
        """A batch of raw records as events in columns (see `raw_batch`); `topic` is the logical name of where they come from."""
        return decode_events(values, self.reader, topic)

    def reader(self, header: bytes) -> SchemaReader | Refused:
        """What reads records that begin with these bytes; waits while the registry does not answer."""
        if len(header) < len(_header(0)) or header[0] != 0:
            return Refused(Reason.MALFORMED_AVRO, "the value: expected a zero byte and a schema id of four bytes before the record")
        schema_id = int.from_bytes(header[1:])
        if schema_id in self._readers:
            return self._readers[schema_id]
        text = self._ids.schema(schema_id)
        if text is None:  # not remembered: the id may be given away later
            return Refused(Reason.UNKNOWN_SCHEMA, f"schema id {schema_id}: the registry has no Avro schema under it")
        reader = _foreign(schema_id, text)
        if isinstance(reader, SchemaReader):
            self._readers[schema_id] = reader
        return reader


class Ids(Protocol):
    """Where ids of schemas come from."""

    def of(self, version: SchemaVersion) -> int:
        """The id of a schema of ours."""

    def schema(self, schema_id: int) -> str | None:
        """The schema with an id that is none of ours, as JSON text; None if there is none."""


class DeclaredIds:
    """Without a registry: every file in `schemas/` says its id, so all processes agree, and there are no other schemas."""

    def of(self, version: SchemaVersion) -> int:
        return version.schema_id

    def schema(self, _: int) -> None:
        return None


def _ids(settings: Settings, wait_s: float | None) -> Ids:
    if settings.schema_registry.url is None:
        return DeclaredIds()
    from pipeline.adapters.schema_ids import RegistryIds

    return RegistryIds(settings, wait_s)


def _header(schema_id: int) -> bytes:
    return b"\x00" + schema_id.to_bytes(4)


def _foreign(schema_id: int, text: str) -> SchemaReader | Refused:
    """The reader of a schema that somebody else has registered: a newer version of a record of ours, or anything."""
    schema = json.loads(text)
    if not isinstance(schema, dict) or schema.get("type") != "record":
        return Refused(Reason.UNKNOWN_TYPE, f"schema id {schema_id}: expected the schema of a record")
    if has_empty_items(schema):
        return Refused(Reason.UNKNOWN_SCHEMA, f"schema id {schema_id}: it has arrays whose items take no bytes, which we do not read")
    try:
        return SchemaReader(schema)
    except Exception as error:  # noqa: BLE001 - somebody else's schema: whatever fastavro finds wrong with it
        return Refused(Reason.UNKNOWN_SCHEMA, f"schema id {schema_id}: {type(error).__name__}: it cannot be read")
