"""One event id, one event, in ClickHouse (spec: events.md): finds events with several different copies, and writes what they say together.

Every copy is a row of its own, inserted before this looks. Of an event with n different copies:

    copies that others need to see         ->  `event-copies`, `identity-evidence`   (flushed first)
    copies that contradict the others      ->  `failed_rows`, version n
    the copies, hidden; the merged event   ->  `event_rows`, version n               (last: it says that all is done)

All is a function of the set of copies, and a larger set has the higher version. So processes that do this at the same time, or again
after a crash, end with the same rows: whoever inserts last sees every copy. The merged row lives under the cookie that the copies
say together; under the other cookies among them it is hidden, in case a smaller set had put it there.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from clickhouse_driver import Client

from pipeline.adapters import event_rows, failed_rows
from pipeline.adapters.event_rows import MERGED, SELECTED, Copy, Row
from pipeline.core.copies import merge
from pipeline.core.events import Event, Utk, matters_to_identity
from pipeline.resolve import conflict_detail

Publish = Callable[[Iterable["Published"]], None]
"""Publishes records and returns when the broker has them."""
Encode = Callable[[Event], bytes]

EVENTS_AT_ONCE = 500
"""Events in one query: their hashes stand in its text."""
_SEVERAL = """
SELECT id_hash FROM event_copies
WHERE id_hash IN (SELECT id_hash FROM event_checks WHERE batch = %(check)s)
GROUP BY id_hash HAVING min(copy) != max(copy)
"""
_ALL_SEVERAL = "SELECT id_hash FROM event_copies GROUP BY id_hash HAVING min(copy) != max(copy) SETTINGS optimize_aggregation_in_order = 1"
_COPIES = f"""
SELECT portal_id, event_id, copy, version, kafka_partition, kafka_offset, {SELECTED} FROM event_rows
WHERE (portal_id, utk, event_id) IN (SELECT portal_id, utk, event_id FROM event_copies WHERE id_hash IN %(hashes)s)
"""


class Published(NamedTuple):
    """A copy for those who would not see it under its own key. `topic` is the logical name."""

    topic: str
    key: bytes
    value: bytes


class Told(NamedTuple):
    """An event as it is told so far: its different copies, and up to how many of them the merged row knows."""

    copies: list[Copy]
    merged_version: int


def settle(client: Client, check: int, encode: Encode, publish: Publish) -> int:
    """Does all of the above for the events whose arrivals are named by `check`; how many had several copies that were not merged yet."""
    return _settle_hashes(client, client.execute(_SEVERAL, {"check": check}), encode, publish)


def settle_all(client: Client, encode: Encode, publish: Publish) -> int:
    """The same for all events that there are."""
    return _settle_hashes(client, client.execute(_ALL_SEVERAL), encode, publish)


def _settle_hashes(client: Client, found: Sequence[tuple[int]], encode: Encode, publish: Publish) -> int:
    hashes = [id_hash for (id_hash,) in found]
    settled = 0
    for start in range(0, len(hashes), EVENTS_AT_ONCE):
        events = told(client, hashes[start : start + EVENTS_AT_ONCE])
        unsettled = [event.copies for event in events if event.merged_version < len(event.copies)]
        _settle(client, unsettled, encode, publish)
        settled += len(unsettled)
    return settled


def elsewhere(copies: Sequence[Copy], encode: Encode) -> list[Published]:
    """The copies of one event that sessions or identity would not see: under another cookie, or of a type that `identify` does not read."""
    utks = sorted({copy.event.utk for copy in copies if copy.event.utk})
    published = [Published("event-copies", utk.encode(), encode(copy.event)) for utk in utks for copy in copies if copy.event.utk != utk]
    if any(matters_to_identity(copy.event) for copy in copies):
        portal = str(copies[0].event.portal_id).encode()
        published += [Published("identity-evidence", portal, encode(copy.event)) for copy in copies if not matters_to_identity(copy.event)]
    return published


def settled_rows(copies: Sequence[Copy], merged: Event) -> list[Row]:
    """The rows that make readers see the merged event, and nothing else of these copies."""
    version = len(copies)
    rows = [_row(copy.event, copy.copy, version, hidden=True, place=copy.place) for copy in copies]
    rows.append(_row(merged, MERGED, version, hidden=False, place=copies[0].place))
    others: set[Utk | None] = {copy.event.utk for copy in copies} - {merged.utk}
    rows += [Row(merged.portal_id, utk, merged.event_id, MERGED, version, None, hidden=True) for utk in others]
    return rows


def _settle(client: Client, events: Sequence[list[Copy]], encode: Encode, publish: Publish) -> None:
    if not events:
        return
    publish(published for copies in events for published in elsewhere(copies, encode))
    failed = []
    rows = []
    for copies in events:
        merged, conflicts = merge([copy.event for copy in copies])
        contradict = {id(event) for event in conflicts}
        for copy in copies:
            detail = conflict_detail(merged, copy.event) if id(copy.event) in contradict else None
            failed.append(failed_rows.conflict(copy, encode(copy.event), len(copies), detail))
        rows += settled_rows(copies, merged)
    failed_rows.insert(client, failed)
    event_rows.insert(client, event_rows.rows(rows))


def told(client: Client, hashes: Sequence[int]) -> list[Told]:
    """The events with these hashes. A copy that was hidden since has two rows, which say the same."""
    events: dict[tuple[Any, Any], tuple[dict[int, Copy], int]] = {}
    for portal, event_id, copy, version, partition, offset, *values in client.execute(_COPIES, {"hashes": tuple(hashes)}):
        copies, merged_version = events.setdefault((portal, event_id), ({}, 0))
        if copy == MERGED:
            events[portal, event_id] = copies, max(merged_version, version)
        else:
            copies[copy] = Copy(event_rows.event(values), copy, (partition, offset))
    return [Told([copies[copy] for copy in sorted(copies)], version) for copies, version in events.values()]


def _row(event: Event, copy: int, version: int, *, hidden: bool, place: tuple[int, int]) -> Row:
    return Row(event.portal_id, event.utk, event.event_id, copy, version, event, hidden, place)
