"""Records of the derived topics as rows of ClickHouse: sessions, contacts, links and owners of evidence.

A row is an upsert whose version is the record's offset. A record without a value says that the thing under its key is gone;
then the key alone makes the row. Ids and times are sent as text and integers, which is cheap, and converted by the server.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
from clickhouse_driver import Client

Record = Mapping[str, Any]


class Column(NamedTuple):
    """A column: its name, the type that it is sent as, and how the server makes its value ({} is what was sent)."""

    name: str
    sent_as: str
    made_by: str = "{}"


def _id(name: str) -> Column:
    return Column(name, "String", "toUUIDOrZero({})")


def _text(name: str) -> Column:
    return Column(name, "Nullable(String)")


def _time(name: str) -> Column:
    return Column(name, "Int64", "fromUnixTimestamp64Milli({}, 'UTC')")


def _time_or_null(name: str) -> Column:
    return Column(name, "Nullable(Int64)", "fromUnixTimestamp64Milli({}, 'UTC')")


def _number(name: str) -> Column:
    return Column(name, "UInt64")


def _word(name: str) -> Column:
    return Column(name, "String")


class Table(NamedTuple):
    """Where the records of a topic go. `key` names the columns that a record's key holds, separated by `|`."""

    name: str
    key: tuple[str, str] | tuple[str, str, str]
    columns: tuple[Column, ...]


TABLES: dict[str, Table] = {
    "sessions": Table(
        "session_rows",
        ("portal_id", "utk", "session_id"),
        (
            _number("portal_id"), _word("utk"), _id("session_id"), _number("number"), _id("first_event_id"), _time("started_at"),
            _time("ended_at"), _id("last_event_id"), _time_or_null("previous_started_at"), _number("activity_count"),
            _number("page_view_count"), _text("entry_url"), _text("exit_url"), _text("source"),
        ),
    ),
    "contacts": Table(
        "contact_rows",
        ("portal_id", "contact_id"),
        (
            _number("portal_id"), _id("contact_id"), _text("email"), Column("former_emails", "Array(String)"), _text("external_id"),
            _time("created_at"), _id("created_by"), Column("merged_into", "Nullable(String)", "toUUIDOrNull({})"),
        ),
    ),
    "identity-links": Table(
        "link_rows",
        ("portal_id", "utk", "evidence"),
        (
            _number("portal_id"), _word("utk"), _id("evidence"), _id("contact_id"), _word("status"), _time_or_null("valid_from"),
            _time_or_null("valid_to"), _word("rule"),
        ),
    ),
    "evidence-owners": Table(
        "evidence_owner_rows",
        ("portal_id", "event_id"),
        (
            _number("portal_id"), _id("event_id"), Column("contact_id", "Nullable(String)", "toUUIDOrNull({})"), _word("rule"),
            Column("by_cookie", "UInt8"),
        ),
    ),
}  # fmt: skip
"""By logical topic."""

_VERSION = (Column("version", "UInt64"), Column("deleted", "UInt8"))
_EMPTY: dict[str, Any] = {"String": "", "UInt64": 0, "Int64": 0, "UInt8": 0, "Array(String)": []}


def insert(
    client: Client,
    topic: str,
    keys: Sequence[bytes],
    values: Sequence[bytes | None],
    offsets: Sequence[int],
    decode: Callable[[Sequence[bytes]], Mapping[str, Sequence[Any]]],
) -> None:
    """Writes the records of one derived topic, in one INSERT. `decode` makes columns of the values that are there."""
    table = TABLES[topic]
    last = {key: at for at, key in enumerate(keys)}  # of several in a batch the last one counts
    present = [at for at in last.values() if values[at] is not None]
    gone = [at for at in last.values() if values[at] is None]
    decoded = decode([values[at] for at in present])  # type: ignore[misc]
    named = [_named(table, keys[at]) for at in gone]
    columns: list[Sequence[Any]] = []
    for name, sent_as, _ in table.columns:
        empty = _EMPTY.get(sent_as)
        said = [*decoded.get(name, [None] * len(present)), *(record.get(name) for record in named)]
        columns.append([empty if value is None else value for value in said] if empty is not None and None in said else said)
    columns.append([offsets[at] for at in (*present, *gone)])
    columns.append([0] * len(present) + [1] * len(gone))
    client.execute(_statement(table), columns, columnar=True)


def insert_frame(client: Client, topic: str, things: pl.DataFrame, version: int) -> None:
    """Writes things as they are, given as columns under the names of their fields, all of one version."""
    table = TABLES[topic]
    sent = [things[column.name] for column in table.columns]
    versions = (pl.repeat(value, len(things), dtype=pl.UInt64, eager=True) for value in (version, 0))
    client.execute(_statement(table), [*sent, *versions], columnar=True)


def _named(table: Table, key: bytes) -> Record:
    """What a key says of the thing that is gone."""
    named: dict[str, Any] = dict(zip(table.key, key.decode().split("|"), strict=True))
    return named | {"portal_id": int(named["portal_id"])}


def _statement(table: Table) -> str:
    columns = (*table.columns, *_VERSION)
    names = ", ".join(column.name for column in columns)
    made = ", ".join(column.made_by.format(f"sent_{column.name}") for column in columns)
    sent = ", ".join(f"sent_{column.name} {column.sent_as}" for column in columns)
    return f"INSERT INTO {table.name} ({names}) SELECT {made} FROM input('{sent}') FORMAT Native"
