"""Records to bytes and back: what we write everybody reads, and a batch of anything is read as if record by record."""

import io
import random
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import avro.io
import avro.schema
import fastavro
import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from pipeline.adapters import raw_batch
from pipeline.adapters.avro import Decoded, Registry, UnreadableError
from pipeline.adapters.avro_columns import HEADER_BYTES, MAX_BYTES
from pipeline.adapters.avro_reader import SchemaReader, has_empty_items, without_logical_types
from pipeline.adapters.avro_writer import writer
from pipeline.adapters.contracts import load_schemas
from pipeline.core.canonical import normal_text
from pipeline.core.events import TYPES, Event
from pipeline.core.outcomes import Reason, Refused
from pipeline.core.parsing import parse_avro
from pipeline.settings import SchemaRegistry, Settings
from tests import builders, strategies

BUSY_MACHINE = effort(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

REGISTRY = Registry(Settings(schema_registry=SchemaRegistry()))
PAGE_VIEW = builders.page_view(1, title="Hello", referrer="https://example.com/before", properties={"plan": "pro"})
VALUE = REGISTRY.encode_event(PAGE_VIEW)
FORM = builders.form_submission(1, fields={"a": "b"})


def column(type_: Any) -> Any:
    """The type of the column that a field of a raw record becomes."""
    match type_:
        case ["null", inner]:
            return column(inner)
        case {"type": "array"}:
            return pl.Object
        case {"type": inner}:
            return column(inner)
    return {"long": pl.Int64, "boolean": pl.Boolean, "string": pl.String}[type_]


COLUMNS = {
    record: {field["name"]: column(field["type"]) for field in versions[-1].json["fields"]}
    for record, versions in load_schemas().items()
    if record in TYPES
}
"""Whatever the events of a type come from, their columns are the same: they are put together."""


def schema_of(record: str) -> dict[str, Any]:
    return without_logical_types(dict(load_schemas()[record][-1].json))  # type: ignore[no-any-return]


def framed(record: str, payload: bytes) -> bytes:
    return b"\x00" + load_schemas()[record][-1].schema_id.to_bytes(4) + payload


def written(record: str, fields: Mapping[str, Any]) -> bytes:
    """The record as fastavro writes it: valid Avro, whatever its values mean to us."""
    encoded = io.BytesIO()
    fastavro.schemaless_writer(encoded, schema_of(record), dict(fields))
    return framed(record, encoded.getvalue())


def outcomes(decoded: Decoded, count: int) -> list[Event | Refused]:
    """What became of each record of a batch, in order; fails if a position is there twice or not at all."""
    by_row: list[tuple[int, Event | Refused]] = [*decoded.refused]
    for batch in decoded.batches:
        assert batch.frame().schema == COLUMNS[batch.type]
        by_row += zip(batch.rows, batch.events(), strict=True)
    assert sorted(row for row, _ in by_row) == list(range(count))
    return [outcome for _, outcome in sorted(by_row, key=lambda entry: entry[0])]


def decoded(values: Sequence[bytes | None], topic: str | None = None, registry: Registry = REGISTRY) -> list[Event | Refused]:
    """What became of each record; the same in columns as one at a time."""
    with patch.object(raw_batch, "FEW", 0):
        in_columns = outcomes(registry.decode_events(values, topic), len(values))
    with patch.object(raw_batch, "FEW", len(values)):
        assert outcomes(registry.decode_events(values, topic), len(values)) == in_columns
    return in_columns


def record_by_record(value: bytes) -> Event | Refused:
    """The plain way: one record, one parse. What a batch must equal."""
    reader = REGISTRY.reader(value[:HEADER_BYTES])
    if isinstance(reader, Refused):
        return reader
    try:
        return parse_avro(reader.record, reader.read_one(value))
    except UnreadableError as error:
        return Refused(Reason.MALFORMED_AVRO, f"the value: {error}")


def reason(value: bytes | None, topic: str | None = None) -> Reason | None:
    (outcome,) = decoded([value], topic)
    return outcome.reason if isinstance(outcome, Refused) else None


# --- writing


@BUSY_MACHINE
@given(strategies.valid_events)
def test_we_write_what_fastavro_writes(event: Event) -> None:
    """Every valid event has the bytes that fastavro gives it."""
    assert REGISTRY.encode_event(event) == written(event.type, builders.as_decoded(event))


@BUSY_MACHINE
@given(strategies.valid_events)
def test_the_official_library_reads_what_we_write(event: Event) -> None:
    """The official decoder gives back every field, and stops at the last byte."""
    encoded = REGISTRY.encode_event(event)
    schema = avro.schema.make_avsc_object(schema_of(event.type))
    payload = io.BytesIO(encoded[HEADER_BYTES:])
    assert avro.io.DatumReader(schema).read(avro.io.BinaryDecoder(payload)) == builders.as_decoded(event)
    assert payload.tell() == len(encoded) - HEADER_BYTES


@BUSY_MACHINE
@given(st.integers(-(2**63), 2**63 - 1))
@example(-(2**63))
@example(2**63 - 1)
@example(-1)
@example(8191)
@example(8192)
def test_every_long_is_written_as_fastavro_does(number: int) -> None:
    """Zigzag and seven bits a byte, at the ends of the range and where our tables end."""
    encoded = io.BytesIO()
    fastavro.schemaless_writer(encoded, "long", number)
    assert writer("long")(number) == encoded.getvalue()


@pytest.mark.parametrize("size", [0, 63, 64, 8191, 8192, 100_000])
def test_texts_of_any_size_are_written(size: int) -> None:
    """A size needs one byte more from 64 and 8192 on."""
    encoded = io.BytesIO()
    fastavro.schemaless_writer(encoded, ["null", "string"], "é" * size)
    assert writer(["null", "string"])("é" * size) == encoded.getvalue()


def test_a_derived_record_has_exactly_its_fields() -> None:
    """A field that is missing, or one too many, is our own mistake and is not written."""
    owner = {"portal_id": 1, "event_id": "e", "contact_id": None, "rule": "form.nobody", "by_cookie": False}
    assert REGISTRY.decode(REGISTRY.encode("evidence_owner", owner)) == owner
    with pytest.raises(ValueError, match="a evidence_owner has the fields"):
        REGISTRY.encode("evidence_owner", owner | {"more": 1})
    with pytest.raises(KeyError):
        REGISTRY.encode("evidence_owner", {**{name: owner[name] for name in list(owner)[1:]}, "portal": 1})


def test_derived_records_are_read_in_their_order() -> None:
    """Records of several schemas in one batch come back in their order, lists and enums included."""
    records = [(name, dict(example)) for name, versions in load_schemas().items() for example in versions[-1].examples if name not in TYPES]
    random.Random(1).shuffle(records)
    assert REGISTRY.decode_many([REGISTRY.encode(name, fields) for name, fields in records]) == [fields for _, fields in records]


def test_a_derived_record_that_is_damaged_is_unreadable() -> None:
    """Nothing is guessed from bytes of our own that are not whole."""
    value = REGISTRY.encode("evidence_owner", load_schemas()["evidence_owner"][0].examples[0])
    for damaged in (value[:-1], value + b"\x00", b"\x00\x00\x00\x27\x0f" + value[5:], b""):
        with pytest.raises(UnreadableError):
            REGISTRY.decode(damaged)


# --- reading whole batches


@BUSY_MACHINE
@given(st.lists(strategies.valid_events, max_size=8))
def test_writing_then_reading_is_the_identity(events: list[Event]) -> None:
    """A batch of valid events of all types comes back as it was."""
    assert decoded(REGISTRY.encode_events(events)) == events


ODD_TEXTS = st.sampled_from(
    (
        "", " ", "a", "A@X.io", "a@x.io", "a@-x.io", "a@x--y.io", "Jörg@München.de", "a b@x.io", "a@x", "a" * 64 + "@x.io", "a@x.io\n",
        "https://x.io", "http://x.io:99999/", "http://x.io/ü", "http://x.io/a b", "ftp://x.io", "http://", "https://x.io/\n", "http://x.io?#",
        "{}", '{"a":1}', '{"b":1,"a":2}', '{"a": 1}', '{"a":1e3}', '{"a":9223372036854775808}', '{"a":18446744073709551616}', "[]", "{",
        "1", '{"a":{"b":[]}}', '{"a":"\\u00e9"}', '{"é":1}', '{"a":1,"a":1}',
        '{"a":' * 60 + "1" + "}" * 60, '{"a":' * 101 + "1" + "}" * 101,
        "e698e92a9b5bbbe43071861fe1fc853a", "E698E92A9B5BBBE43071861FE1FC853A", "e698e92a-9b5b-bbe4-3071-861fe1fc853a", "e698e92a",
        "0B6E2F0C-6A53-5A0E-9D5C-2F4F3C1D7A10", "{0b6e2f0c-6a53-5a0e-9d5c-2f4f3c1d7a10}", "e698e92a9b5bbbe43071861fe1fc853a\n",
        "\x00", "😀",
    )
) | st.text(max_size=5)  # fmt: skip
ODD_LONGS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(
    (0, 1, -1, 631_151_999_999, 631_152_000_000, 4_102_444_799_999, 4_102_444_800_000, 1_700_000_000)
)
ODD: dict[str, st.SearchStrategy[Any]] = {
    "string": ODD_TEXTS,
    "long": ODD_LONGS,
    "boolean": st.booleans(),
    "array": st.lists(st.fixed_dictionaries({"name": ODD_TEXTS, "value": ODD_TEXTS}), max_size=2),
}


@st.composite
def odd_values(draw: st.DrawFn) -> bytes:
    """A record of any type in which up to three fields are anything that Avro allows there; perhaps with bytes changed after that."""
    event = draw(strategies.valid_events)
    fields = {field["name"]: field["type"] for field in schema_of(event.type)["fields"]}
    record = builders.as_decoded(event)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=3)):
        kind = fields[name][1] if isinstance(fields[name], list) else fields[name]
        odd = ODD[kind["type"] if isinstance(kind, dict) else kind]
        record[name] = draw(st.none() | odd if isinstance(fields[name], list) else odd)
    value = written(event.type, record)
    if draw(st.integers(0, 2)):
        return value
    at = draw(st.integers(0, len(value)))
    until = at + draw(st.integers(0, 2))
    return value[:at] + draw(st.binary(max_size=2)) + value[until:]


@BUSY_MACHINE
@given(st.lists(odd_values(), max_size=6))
def test_a_batch_is_read_as_if_record_by_record(values: list[bytes]) -> None:
    """Whatever the records hold, columns and single records give the same events and the same refusals."""
    assert decoded(values) == [record_by_record(value) for value in values]


@BUSY_MACHINE
@given(st.binary(max_size=60), st.sampled_from([version.schema_id for versions in load_schemas().values() for version in versions]))
def test_any_bytes_are_an_event_or_a_refusal(payload: bytes, schema_id: int) -> None:
    """Bytes that nobody wrote raise nothing, and do not touch the record beside them."""
    outcome, neighbour = decoded([b"\x00" + schema_id.to_bytes(4) + payload, VALUE])
    assert isinstance(outcome, Refused)
    assert neighbour == PAGE_VIEW


def test_one_damaged_record_does_not_touch_its_neighbours() -> None:
    """A batch with a record that is cut off, too long, or of wrong bytes loses only that one."""
    for damaged in (VALUE[:-1], VALUE + b"\x00", VALUE[:5] + b"\xff" * 20, VALUE[:5]):
        before, refusal, after = decoded([VALUE, damaged, VALUE])
        assert (before, after) == (PAGE_VIEW, PAGE_VIEW)
        assert isinstance(refusal, Refused)
        assert refusal.reason is Reason.MALFORMED_AVRO


def test_records_that_would_borrow_bytes_from_each_other_are_refused() -> None:
    """A record with a byte too few beside one with a byte too many: together they are long enough, and both are damaged."""
    assert [type(outcome) for outcome in decoded([VALUE[:-1], VALUE[:5] + b"\x00" + VALUE[5:]])] == [Refused, Refused]


def test_text_that_is_not_utf_8_is_malformed() -> None:
    """The bytes of a text are checked."""
    assert reason(VALUE.replace(b"Hello", b"Hell\xff")) is Reason.MALFORMED_AVRO


def test_bytes_that_stand_for_nothing_are_not_guessed() -> None:
    """A union has two branches: a third is malformed, though a lenient reader takes it for the second."""
    at = VALUE.index(b"\x02\x0aHello")
    assert reason(VALUE[:at] + b"\x04" + VALUE[at + 1 :]) is Reason.MALFORMED_AVRO


def test_an_array_of_a_billion_fields_reserves_nothing() -> None:
    """A few bytes that promise a billion form fields are refused without memory for them."""
    value = REGISTRY.encode_event(FORM)
    at = value.index(b"\x02\x02\x02a\x02b\x00")
    bomb = value[: at + 1] + writer("long")(10**9) + value[at + 2 :]
    tracemalloc.start()
    assert reason(bomb) is Reason.MALFORMED_AVRO
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_form_fields_keep_order_and_repeated_names() -> None:
    """What JSON cannot say, Avro can: a name twice."""
    forms = [builders.form_submission(1, fields=[("b", "1"), ("a", ""), ("b", "ü" * 100)]), builders.form_submission(2, fields=None)]
    assert decoded(REGISTRY.encode_events(forms)) == forms


@pytest.mark.parametrize("fields", [[], [{"name": "a", "value": "b"}], [{"name": "", "value": "b" * 9_000}] * 3])
def test_form_fields_that_others_write_in_blocks_with_their_size_are_read(fields: list[dict[str, str]]) -> None:
    """Avro allows an array in several blocks, of negative counts with their sizes: the Java library writes such."""
    text, long = writer("string"), writer("long")
    items = [text(field["name"]) + text(field["value"]) for field in fields]
    array = b"".join(long(-1) + long(len(item)) + item for item in items) + b"\x00"
    whole = REGISTRY.encode_event(FORM)
    value = whole.replace(b"\x02\x02\x02a\x02b\x00", b"\x02" + array)
    assert value != whole
    outcome, neighbour = decoded([value, whole])
    assert isinstance(outcome, Event)
    assert getattr(outcome, "fields") == (tuple((field["name"], field["value"]) for field in fields) or None)  # noqa: B009
    assert neighbour == FORM


def test_a_batch_of_one_type_is_one_batch_of_columns() -> None:
    """Records in normal form make one block, with every field of the type in its order, absent ones as None."""
    events = [builders.page_view(number, at=builders.START + number) for number in range(3)]
    with patch.object(raw_batch, "FEW", 0):
        (batch,) = REGISTRY.decode_events(REGISTRY.encode_events(events)).batches
    assert (batch.type, batch.rows) == ("page_view", [0, 1, 2])
    assert tuple(batch.columns) == TYPES["page_view"].__struct_fields__
    assert batch.columns["occurred_at"] == [builders.START, builders.START + 1, builders.START + 2]
    assert batch.columns["title"] == [None, None, None]


def test_an_empty_batch_holds_nothing() -> None:
    """No values, no events, no refusals."""
    assert REGISTRY.decode_events([]) == Decoded([], [])


def test_records_that_are_not_in_normal_form_are_normalised() -> None:
    """A producer that writes a cookie in capitals means the same cookie."""
    loud = written(
        "page_view", builders.as_decoded(PAGE_VIEW) | {"utk": builders.utk("a").upper(), "title": "", "properties": '{"plan": "pro"}'}
    )
    assert decoded([loud]) == [builders.page_view(1, referrer="https://example.com/before", properties={"plan": "pro"})]


# --- refusals


@pytest.mark.parametrize("value", [None, b"", b"\x00\x00\x00\x01", b"\x01" + VALUE[1:], b'{"type":"page_view"}'])
def test_a_value_that_is_not_framed_is_malformed(value: bytes | None) -> None:
    """Null, too short for an id, or beginning with another byte than zero."""
    assert reason(value) is Reason.MALFORMED_AVRO


def test_a_value_over_a_million_bytes_is_too_large() -> None:
    """Size comes first: what the bytes are does not matter. A million bytes exactly are not too large."""
    assert reason(b"?" * (MAX_BYTES + 1)) is Reason.TOO_LARGE
    title = "a" * (MAX_BYTES - len(VALUE) - 2)
    largest = REGISTRY.encode_event(builders.page_view(1, title="Hello" + title, referrer=PAGE_VIEW.referrer, properties={"plan": "pro"}))
    assert len(largest) == MAX_BYTES
    assert reason(largest) is None


def test_an_id_that_the_registry_does_not_have_is_an_unknown_schema() -> None:
    """The id is named; the record may be perfectly good."""
    (outcome,) = decoded([b"\x00\x00\x00\x27\x0f" + VALUE[5:]])
    assert outcome == Refused(Reason.UNKNOWN_SCHEMA, "schema id 9999: the registry has no Avro schema under it")


def test_a_derived_record_on_a_raw_topic_is_of_an_unknown_type() -> None:
    """The registry knows the schema of a session; no event has it."""
    assert reason(REGISTRY.encode("session", load_schemas()["session"][0].examples[0])) is Reason.UNKNOWN_TYPE


def test_an_event_on_the_topic_of_another_type_is_refused() -> None:
    """Nobody who reads clicks expects a page view there; topics of several types take each of theirs."""
    assert reason(VALUE, "page-views") is None
    assert reason(VALUE, "event-copies") is None
    assert reason(VALUE, "email-clicks") is Reason.UNKNOWN_TYPE


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"url": ""}, Reason.MISSING_FIELD),
        ({"event_id": "1"}, Reason.INVALID_EVENT_ID),
        ({"portal_id": 0}, Reason.INVALID_PORTAL),
        ({"occurred_at": 1_700_000_000}, Reason.INVALID_TIMESTAMP),
        ({"received_at": 4_102_444_800_000}, Reason.INVALID_TIMESTAMP),
        ({"utk": "me"}, Reason.INVALID_UTK),
        ({"url": "example.com"}, Reason.INVALID_URL),
        ({"properties": "[1]"}, Reason.INVALID_FIELD),
    ],
)
def test_a_record_that_is_no_valid_event_is_refused_with_its_reason(changes: dict[str, Any], expected: Reason) -> None:
    """Avro that is whole can still say what no event says."""
    assert reason(written("page_view", builders.as_decoded(PAGE_VIEW) | changes)) is expected


# --- other versions


@pytest.mark.parametrize("event", [PAGE_VIEW, FORM], ids=["page_view", "form_submission"])
def test_an_older_version_is_read_with_its_own_schema(event: Event) -> None:
    """Fields that it does not have yet are absent, in columns as well as one by one; alone and beside records of today."""
    today = schema_of(event.type)
    for without in today["fields"]:
        older = {**today, "fields": [field for field in today["fields"] if field is not without]}
        encoded = io.BytesIO()
        fastavro.schemaless_writer(encoded, older, builders.as_decoded(event))
        registry = Registry(Settings(schema_registry=SchemaRegistry()))
        registry._readers[99] = SchemaReader(older)
        value = b"\x00" + (99).to_bytes(4) + encoded.getvalue()
        outcome, neighbour = decoded([value, REGISTRY.encode_event(event)], registry=registry)
        assert neighbour == event
        if "default" in without:
            assert outcome == msgspec.structs.replace(event, **{without["name"]: without["default"]})
        else:
            assert isinstance(outcome, Refused)
            assert outcome.reason is Reason.MISSING_FIELD


@pytest.mark.parametrize(
    ("event", "name", "type_", "value"),
    [
        (PAGE_VIEW, "occurred_at", "string", "2024-01-01T00:00:00Z"),
        (PAGE_VIEW, "occurred_at", "double", 1.7e12),
        (PAGE_VIEW, "portal_id", "string", "7"),
        (PAGE_VIEW, "utk", "long", 7),
        (PAGE_VIEW, "title", ["null", "long"], 7),
        (PAGE_VIEW, "url", ["null", "string"], None),
        (PAGE_VIEW, "new_browser_session", "string", "yes"),
        (PAGE_VIEW, "new_browser_session", ["null", "boolean"], None),
        (PAGE_VIEW, "properties", ["null", "boolean"], True),
        (FORM, "fields", ["null", "string"], "a"),
        (FORM, "fields", ["null", {"type": "array", "items": "string"}], ["a"]),
        (FORM, "use_cookie", "long", 1),
    ],
)
def test_a_field_of_another_type_is_what_its_value_is(event: Event, name: str, type_: Any, value: Any) -> None:
    """A registry lets anybody register anything under our records' names. It is parsed or refused as it is one by one, never trusted."""
    today = schema_of(event.type)
    other = {**today, "fields": [{"name": name, "type": type_} if field["name"] == name else field for field in today["fields"]]}
    encoded = io.BytesIO()
    record = builders.as_decoded(event) | {name: value}
    fastavro.schemaless_writer(encoded, other, record)
    registry = Registry(Settings(schema_registry=SchemaRegistry()))
    registry._readers[99] = SchemaReader(other)
    framed_value = b"\x00" + (99).to_bytes(4) + encoded.getvalue()
    assert decoded([framed_value, framed_value], registry=registry) == [parse_avro(event.type, record)] * 2


PAIR = {"type": "record", "name": "pair", "fields": [{"name": "name", "type": "string"}, {"name": "value", "type": "string"}]}


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ([("language", "string"), ("scores", {"type": "array", "items": "int"})], {"language": "de", "scores": [1, 2]}),
        ([("language", "string")], {"language": "de"}),
        ([("language", ["null", "string"]), ("clicks", ["null", "long"])], {"language": None, "clicks": 3}),
        ([("labels", ["null", {"type": "array", "items": PAIR}])], {"labels": [{"name": "a", "value": "1"}]}),
        ([("language", ["null", "string"]), ("labels", ["null", {"type": "array", "items": PAIR}])], {"language": None, "labels": None}),
    ],
    ids=["array", "flat", "optional", "pairs", "absent"],
)
def test_a_field_of_a_newer_version_is_kept_as_an_extra(fields: list[tuple[str, Any]], values: dict[str, Any]) -> None:
    """A producer that is ahead of us loses nothing: what we do not know goes into the properties."""
    today = schema_of("page_view")
    newer = {**today, "fields": [*today["fields"], *({"name": name, "type": type_} for name, type_ in fields)]}
    encoded = io.BytesIO()
    fastavro.schemaless_writer(encoded, newer, builders.as_decoded(PAGE_VIEW) | values)
    registry = Registry(Settings(schema_registry=SchemaRegistry()))
    registry._readers[99] = SchemaReader(newer)
    outcome, neighbour = decoded([b"\x00" + (99).to_bytes(4) + encoded.getvalue(), VALUE], registry=registry)
    assert isinstance(outcome, Event)
    assert getattr(outcome, "properties") == normal_text({"plan": "pro"} | {n: v for n, v in values.items() if v is not None})  # noqa: B009
    assert neighbour == PAGE_VIEW


@pytest.mark.parametrize(
    ("items", "empty"),
    [
        ("null", True),
        ("string", False),
        (["null", "string"], False),
        ({"type": "fixed", "name": "nothing", "size": 0}, True),
        ({"type": "record", "name": "empty", "fields": [{"name": "a", "type": "null"}]}, True),
        ({"type": "record", "name": "pair", "fields": [{"name": "a", "type": "null"}, {"name": "b", "type": "long"}]}, False),
        ({"type": "array", "items": "null"}, True),
        ({"type": "map", "values": "null"}, False),
    ],
)
def test_arrays_of_nothing_are_found_in_schemas(items: Any, empty: bool) -> None:
    """An array whose items take no bytes can promise a billion of them in a few bytes, so such a schema is not read."""
    schema = {"type": "record", "name": "page_view", "fields": [{"name": "list", "type": ["null", {"type": "array", "items": items}]}]}
    assert has_empty_items(schema) is empty
