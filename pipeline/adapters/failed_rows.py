"""Failed events as rows of ClickHouse: dead letters, and copies that contradict their event.

What failed has one row however often it is told: a record is known by where it stood, a refused line by reason and bytes (a file
may be published twice), a copy by its event and the hash of what it says.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException
from confluent_kafka import Message

from pipeline.adapters.clickhouse import NOT_THERE, identifier
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.adapters.dead_letters import Headers, Said
from pipeline.adapters.event_rows import Copy
from pipeline.core.outcomes import Reason

_IDS_AT_ONCE = 2_000
"""So many fit into a query, whose text ClickHouse limits to 256 KiB."""


class Failed(NamedTuple):
    """One row of `failed_rows`, columns in the order of the table; `timestamp` in epoch milliseconds."""

    id: str
    reason: str
    detail: str
    topic: str
    partition: int | None
    offset: int | None
    timestamp: int | None
    part: str
    portal_id: int | None
    event_id: str | None
    key: bytes | None
    value: bytes
    version: int = 0
    deleted: bool = False


_TYPES = {
    "partition": "Nullable(Int32)", "offset": "Nullable(Int64)", "timestamp": "Nullable(Int64)", "portal_id": "Nullable(UInt64)",
    "event_id": "Nullable(String)", "key": "Nullable(String)", "version": "UInt64", "deleted": "UInt8",
}  # fmt: skip
_MADE = {"timestamp": "fromUnixTimestamp64Milli(sent_timestamp, 'UTC')", "event_id": "toUUIDOrNull(sent_event_id)"}
_SENT = ", ".join(f"sent_{name} {_TYPES.get(name, 'String')}" for name in Failed._fields)
_VALUES = ", ".join(_MADE.get(name, f"sent_{name}") for name in Failed._fields)
_INSERT = f"INSERT INTO failed_rows ({', '.join(Failed._fields)}) SELECT {_VALUES} FROM input('{_SENT}') FORMAT Native"


def dead_letter(key: bytes | None, value: bytes | None, headers: Headers | None) -> Failed:
    """The row of a dead letter, or of the mark that it was put back, which is a later version of it."""
    said, value = Said.of(headers), value or b""
    return Failed(
        id=said.id(value),
        reason=said.reason,
        detail=said.error,
        topic=said.topic,
        partition=said.partition,
        offset=said.offset,
        timestamp=said.timestamp,
        part=said.part,
        portal_id=None,
        event_id=None,
        key=key,
        value=value,
        version=int(said.is_mark),
        deleted=said.is_mark,
    )


def of_letters(messages: Iterable[Message], generation: int) -> list[Failed]:
    """The rows that letters are to a generation. What a later one refused, by newer rules and of all that there is, is not refused here."""
    letters = [(message.key(), message.value(), message.headers()) for message in messages]
    return [dead_letter(key, value, headers) for key, value, headers in letters if Said.of(headers).generation <= generation]  # type: ignore[arg-type]


def conflict(copy: Copy, value: bytes, version: int, detail: str | None) -> Failed:
    """The row of a copy among `version` copies of its event: what it contradicts, or None if nothing, now that all of these are known."""
    event = copy.event
    return Failed(
        id=f"copy:{event.portal_id}:{event.event_id}:{copy.copy}",
        reason=Reason.CONFLICTING_DUPLICATE.value,
        detail=detail or "",
        topic=RAW_TOPICS[event.type],
        partition=copy.place[0],
        offset=copy.place[1],
        timestamp=None,
        part="record",
        portal_id=event.portal_id,
        event_id=event.event_id,
        key=(event.utk or event.event_id).encode(),
        value=value,
        version=version,
        deleted=detail is None,
    )


def known(client: Client, databases: Iterable[str], ids: Sequence[str]) -> set[str]:
    """Those of the ids that have a row in one of these databases, which may be gone."""
    found: set[str] = set()
    for database in databases:
        query = f"SELECT id FROM {identifier(database)}.failed_rows WHERE id IN %(ids)s"
        try:
            for start in range(0, len(ids), _IDS_AT_ONCE):
                found.update(id_ for (id_,) in client.execute(query, {"ids": tuple(ids[start : start + _IDS_AT_ONCE])}))
        except ServerException as error:
            if error.code not in NOT_THERE:
                raise
    return found


def insert(client: Client, failed: Sequence[Failed]) -> None:
    if failed:
        client.execute(_INSERT, [list(column) for column in zip(*failed, strict=True)], columnar=True)
