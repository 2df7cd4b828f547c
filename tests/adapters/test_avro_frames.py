"""Derived records from columns are, byte for byte, what they are one by one."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters.avro import Registry
from pipeline.adapters.contracts import load_schemas
from pipeline.settings import Settings

REGISTRY = Registry(Settings())
OF_SESSION = load_schemas()["session"][-1].json["fields"]
OPTIONAL = {field["name"]: isinstance(field["type"], list) for field in OF_SESSION}
SCHEMA = {field["name"]: pl.String if "string" in str(field["type"]) else pl.Int64 for field in OF_SESSION}

LONG = ("", "é" * 63, "x" * 63, "x" * 64, "😀" * 2_100, "x" * 8_192)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80) | st.sampled_from(LONG)
EDGES = [sign * 2**bits + more for sign in (1, -1) for bits in (6, 13, 20, 62) for more in (-1, 0)]
numbers = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EDGES)
values = {name: texts if type_ == pl.String else numbers for name, type_ in SCHEMA.items()}
sessions = st.lists(st.fixed_dictionaries({n: v | st.none() if OPTIONAL[n] else v for n, v in values.items()}), max_size=5)


@given(sessions)
def test_columns_are_written_as_one_by_one(records: list[dict[str, Any]]) -> None:
    assert REGISTRY.encode_frame("session", pl.DataFrame(records, SCHEMA)) == [REGISTRY.encode("session", record) for record in records]


def test_a_required_field_must_be_there() -> None:
    record = {name: None if OPTIONAL[name] else "x" if type_ == pl.String else 1 for name, type_ in SCHEMA.items()}
    frame = pl.DataFrame([record, record | {"utk": None}], SCHEMA)
    with pytest.raises(ValueError, match="utk is required, and absent in 1 of 2 records"):
        REGISTRY.encode_frame("session", frame)
