"""What is sent to ClickHouse in columns of polars is what it shows, beside columns that the driver writes."""

from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.adapters import clickhouse
from pipeline.adapters.clickhouse import Client
from pipeline.settings import Settings

pytestmark = pytest.mark.servers

TYPES = {"number": "UInt64", "signed": "Int64", "small": "UInt16", "switch": "UInt8", "text": "String", "maybe": "Nullable(String)"}
TYPES |= {"maybe_time": "Nullable(Int64)", "pairs": "Array(Tuple(name String, value String))", "day": "Date"}

texts = st.text(max_size=40) | st.sampled_from(
    ["", "\0", "é" * 63, "é" * 64, "x" * 127, "x" * 128, "x" * 16_383, "x" * 16_384, "x" * 300_000]
)
rows = st.fixed_dictionaries(
    {
        "number": st.integers(0, 2**63 - 1),
        "signed": st.integers(-(2**63), 2**63 - 1),
        "small": st.integers(0, 2**16 - 1),
        "switch": st.booleans(),
        "text": texts,
        "maybe": st.none() | texts,
        "maybe_time": st.none() | st.integers(-(2**63), 2**63 - 1),
    }
)
SCHEMA = dict.fromkeys(("number", "signed", "small"), pl.Int64) | {"switch": pl.Boolean, "text": pl.String, "maybe": pl.String}
SCHEMA |= {"maybe_time": pl.Int64}


@pytest.fixture
def client(settings: Settings) -> Client:
    clickhouse.server(settings).execute(f"CREATE DATABASE {settings.database}")
    return clickhouse.connect(settings)


def insert(client: Client, columns: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What the table shows of them."""
    client.execute("DROP TABLE IF EXISTS sent")
    client.execute(f"CREATE TABLE sent (at UInt64, {', '.join(f'{name} {type_}' for name, type_ in TYPES.items())}) ENGINE = Memory")
    client.execute(f"INSERT INTO sent ({', '.join(columns)}) VALUES", list(columns.values()), columnar=True)
    shown: list[tuple[Any, ...]] = client.execute(f"SELECT {', '.join(columns)} FROM sent ORDER BY at")
    return shown


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows, min_size=1, max_size=6))
def test_columns_arrive_as_they_are(client: Client, sent: list[dict[str, Any]]) -> None:
    frame = pl.DataFrame(sent, SCHEMA)
    pairs = [[("name", row["text"])] for row in sent]
    numbers = pl.Series(range(len(sent)), dtype=pl.UInt64)
    shown = insert(client, {"at": numbers} | {name: frame[name] for name in SCHEMA} | {"pairs": pairs})
    assert shown == [(at, *(row[name] for name in SCHEMA), pairs[at]) for at, row in enumerate(sent)]


def test_an_absent_value_is_what_its_type_has_for_it(client: Client) -> None:
    """Of a type that has no null, as in the tables of events."""
    columns = {
        "at": [0],
        "text": pl.Series([None], dtype=pl.String),
        "number": pl.Series([None], dtype=pl.Int64),
        "switch": pl.Series([None], dtype=pl.Boolean),
    }
    assert insert(client, columns) == [(0, "", 0, 0)]


def test_a_type_that_is_the_drivers_business_is_left_to_it(client: Client) -> None:
    days = pl.Series(["2026-11-30"]).str.to_date()
    assert insert(client, {"at": [0], "day": days, "text": pl.Series(["x"])}) == [(0, days.item(), "x")]


def test_columns_of_different_lengths_are_refused(client: Client) -> None:
    """And the connection can be used again."""
    with pytest.raises(ValueError, match=r"a block of 2 columns: given are 2, of \[1, 2\] rows"):
        insert(client, {"at": pl.Series([1, 2]), "text": pl.Series(["x"])})
    assert insert(client, {"at": [0], "text": pl.Series(["x"])}) == [(0, "x")]


def test_no_rows_are_no_rows(client: Client) -> None:
    """And the connection can be used again: a rebuild may have cookies without a session."""
    assert insert(client, {"at": pl.Series([], dtype=pl.UInt64), "text": pl.Series([], dtype=pl.String)}) == []
    assert insert(client, {"at": [0], "text": pl.Series(["x"])}) == [(0, "x")]
