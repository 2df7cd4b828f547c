"""Reads Avro binary: a whole batch of records into columns (`avro_columns`), or one record at a time."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro
import polars as pl

from pipeline.adapters.avro_columns import HEADER_BYTES, ColumnReader, flat_fields, kinds


class UnreadableError(Exception):
    """The bytes are not a record of their schema. The message says what is wrong, never what the bytes contain."""


class SchemaReader:
    """Reads records that were written with one schema. Raises whatever fastavro raises if the schema is none."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.record: str = schema["name"]
        fields = flat_fields(schema)
        self.kinds = kinds(schema)
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
