"""Every example in `schemas/` is a record of its schema, for the official Avro library, for fastavro and for us."""

import io
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import avro.io
import avro.schema
import fastavro
import pytest

from pipeline.adapters.avro import Registry
from pipeline.adapters.avro_columns import HEADER_BYTES
from pipeline.adapters.avro_reader import without_logical_types
from pipeline.adapters.contracts import SchemaVersion, load_schemas
from pipeline.core.events import TYPES, Event
from pipeline.core.parsing import parse_avro
from pipeline.settings import SchemaRegistry, Settings

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


EXAMPLES = [
    pytest.param(version, example, id=f"{version.name}.v{version.version}-{number}")
    for versions in load_schemas().values()
    for version in versions
    for number, example in enumerate(version.examples)
]


def with_dates(version: SchemaVersion, example: Mapping[str, Any]) -> dict[str, Any]:
    """The example with a date for each time, as the official library wants them."""
    times = {field["name"] for field in version.json["fields"] if "timestamp-millis" in str(field["type"])}
    return {
        name: EPOCH + timedelta(milliseconds=value) if name in times and value is not None else value for name, value in example.items()
    }


def official_bytes(version: SchemaVersion, example: Mapping[str, Any]) -> bytes:
    encoded = io.BytesIO()
    avro.io.DatumWriter(avro.schema.parse(version.text)).write(with_dates(version, example), avro.io.BinaryEncoder(encoded))
    return encoded.getvalue()


def is_written(version: object) -> bool:
    """Whether it is the version that we write: the newest."""
    return any(version is versions[-1] for versions in load_schemas().values())


def event_of(version: SchemaVersion, example: Mapping[str, Any]) -> Event:
    event = parse_avro(version.name, example)
    assert isinstance(event, Event), event
    return event


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(Settings(schema_registry=SchemaRegistry()))


@pytest.mark.parametrize(("version", "example"), EXAMPLES)
def test_an_example_has_every_field_and_is_valid(version: SchemaVersion, example: Mapping[str, Any]) -> None:
    """An example shows each field in its order, and the official library and fastavro take it."""
    assert list(example) == [field["name"] for field in version.json["fields"]]
    assert avro.io.validate(avro.schema.parse(version.text), with_dates(version, example))
    assert fastavro.validate(dict(example), without_logical_types(version.json))


@pytest.mark.parametrize(("version", "example"), EXAMPLES)
def test_an_example_comes_back_from_every_library(version: SchemaVersion, example: Mapping[str, Any]) -> None:
    """What the official library writes, it and fastavro read back."""
    encoded = official_bytes(version, example)
    schema = avro.schema.parse(version.text)
    assert avro.io.DatumReader(schema).read(avro.io.BinaryDecoder(io.BytesIO(encoded))) == with_dates(version, example)
    assert fastavro.schemaless_reader(io.BytesIO(encoded), without_logical_types(version.json), None) == example


@pytest.mark.parametrize(("version", "example"), [each for each in EXAMPLES if is_written(each.values[0])])
def test_we_write_the_bytes_that_the_official_library_writes(
    registry: Registry, version: SchemaVersion, example: Mapping[str, Any]
) -> None:
    """Our encoder and the official one agree byte for byte, and ours puts the id of the file before."""
    ours = registry.encode_event(event_of(version, example)) if version.name in TYPES else registry.encode(version.name, example)
    assert ours[:HEADER_BYTES] == b"\x00" + version.schema_id.to_bytes(4)
    assert ours[HEADER_BYTES:] == official_bytes(version, example)


@pytest.mark.parametrize(("version", "example"), EXAMPLES)
def test_we_read_what_the_official_library_writes(registry: Registry, version: SchemaVersion, example: Mapping[str, Any]) -> None:
    """Our decoder gives the example back."""
    value = b"\x00" + version.schema_id.to_bytes(4) + official_bytes(version, example)
    if version.name in TYPES:
        (batch,) = registry.decode_events([value]).batches
        assert batch.events() == [event_of(version, example)]
    else:
        assert registry.decode(value) == example


def test_every_record_has_an_example_with_and_one_without_its_optional_fields() -> None:
    """The examples of a schema show each of its fields with a value, and each optional one as null."""
    for version in (version for versions in load_schemas().values() for version in versions):
        for field in version.json["fields"]:
            if (version.name, field["name"]) == ("identify", "utk"):
                continue  # optional in the schema, required by the spec
            values = [example[field["name"]] for example in version.examples]
            assert any(value is not None for value in values), (version.name, field["name"])
            if isinstance(field["type"], list):
                assert None in values, (version.name, field["name"])
