"""One event id, one event, in ClickHouse (spec: events.md): finds events with several different copies, and writes what they say together.

Every copy is a row of its own, inserted before this looks. Of an event with n different copies:

    copies that others have yet to see           ->  `event-copies`, `identity-evidence`   (flushed first)
    copies that contradict the others            ->  `failed_rows`, version n
    new copies, hidden; the merged event         ->  `event_rows`, version n               (last: it says that all is done)

A copy is new until it is hidden. A producer that gives one id to all its events makes thousands of copies of one: each is told once.

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

EVENTS_AT_ONCE = 2_500
"""Events in one query, with all that their copies say in memory ..."""
ALL_AT_ONCE = 10_000
"""... and when all are looked at: they are scattered, so that a few hundred cost as much as thousands, the reading of every granule."""
_SEVERAL = """
SELECT id_hash FROM event_copies
WHERE id_hash IN (SELECT id_hash FROM event_checks WHERE batch = %(check)s)
GROUP BY id_hash HAVING min(copy) != max(copy)
"""
_ALL_SEVERAL = "SELECT id_hash FROM event_copies GROUP BY id_hash HAVING min(copy) != max(copy) SETTINGS optimize_aggregation_in_order = 1"
_COPIES = f"""
SELECT portal_id, event_id, copy, version, kafka_partition, kafka_offset, {SELECTED} FROM event_rows
WHERE (portal_id, utk, event_id) IN (SELECT portal_id, utk, event_id FROM event_copies WHERE id_hash IN asked_for)
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
    hidden: frozenset[int]
    """Which of the copies were hidden: others have seen them."""

    def is_new(self, copy: Copy) -> bool:
        return copy.copy not in self.hidden


def settle(client: Client, check: int, encode: Encode, publish: Publish) -> int:
    """Does all of the above for the events whose arrivals are named by `check`; how many had several copies that were not merged yet."""
    return _settle_hashes(client, client.execute(_SEVERAL, {"check": check}), encode, publish, EVENTS_AT_ONCE)


def settle_all(client: Client, encode: Encode, publish: Publish) -> int:
    """The same for all events that there are."""
    return _settle_hashes(client, client.execute(_ALL_SEVERAL), encode, publish, ALL_AT_ONCE)


def _settle_hashes(client: Client, found: Sequence[tuple[int]], encode: Encode, publish: Publish, at_once: int) -> int:
    hashes = [id_hash for (id_hash,) in found]
    settled = 0
    for start in range(0, len(hashes), at_once):
        events = told(client, hashes[start : start + at_once])
        unsettled = [event for event in events if event.merged_version < len(event.copies)]
        _settle(client, unsettled, encode, publish)
        settled += len(unsettled)
    return settled


def elsewhere(event: Told, encode: Encode) -> list[Published]:
    """The copies that sessions or identity would not see: under another cookie, or of a type that `identify` does not read.

    Every new copy for every cookie, and the others for the cookies that are new.
    """
    copies = event.copies
    seen = {copy.event.utk for copy in copies if not event.is_new(copy)}
    utks = sorted({copy.event.utk for copy in copies if copy.event.utk})
    published = [
        Published("event-copies", utk.encode(), encode(copy.event))
        for utk in utks
        for copy in copies
        if copy.event.utk != utk and (event.is_new(copy) or utk not in seen)
    ]
    if any(matters_to_identity(copy.event) for copy in copies):
        were_there = any(matters_to_identity(copy.event) for copy in copies if not event.is_new(copy))
        portal = str(copies[0].event.portal_id).encode()
        published += [
            Published("identity-evidence", portal, encode(copy.event))
            for copy in copies
            if not matters_to_identity(copy.event) and (event.is_new(copy) or not were_there)
        ]
    return published


def settled_rows(event: Told, merged: Event) -> list[Row]:
    """The rows that make readers see the merged event, and nothing else of these copies."""
    copies = event.copies
    version = len(copies)
    rows = [_row(copy.event, copy.copy, version, hidden=True, place=copy.place) for copy in copies if event.is_new(copy)]
    rows.append(_row(merged, MERGED, version, hidden=False, place=copies[0].place))
    others: set[Utk | None] = {copy.event.utk for copy in copies} - {merged.utk}
    rows += [Row(merged.portal_id, utk, merged.event_id, MERGED, version, None, hidden=True) for utk in others]
    return rows


def _settle(client: Client, events: Sequence[Told], encode: Encode, publish: Publish) -> None:
    if not events:
        return
    publish(published for event in events for published in elsewhere(event, encode))
    failed = []
    rows = []
    for event in events:
        copies = event.copies
        merged, conflicts = merge([copy.event for copy in copies])
        contradict = {id(conflict) for conflict in conflicts}
        for copy in copies:
            detail = conflict_detail(merged, copy.event) if id(copy.event) in contradict else None
            failed.append(failed_rows.conflict(copy, encode(copy.event), len(copies), detail))
        rows += settled_rows(event, merged)
    failed_rows.insert(client, failed)
    event_rows.insert(client, event_rows.rows(rows))


def told(client: Client, hashes: Sequence[int]) -> list[Told]:
    """The events with these hashes. Rows of one copy say the same but for their places, of which the smallest counts: it may have come
    several times, and once it was hidden it has a row with a version above 1. (ClickHouse keeps the last of its rows when it merges them.)
    """
    events: dict[tuple[Any, Any], tuple[dict[int, Copy], dict[int, int]]] = {}
    for portal, event_id, copy, version, partition, offset, *values in client.execute(_COPIES, external_tables=asked_for(hashes)):
        copies, versions = events.setdefault((portal, event_id), ({}, {}))
        versions[copy] = max(versions.get(copy, 0), version)
        if copy != MERGED:
            place = min((partition, offset), copies[copy].place) if copy in copies else (partition, offset)
            copies[copy] = Copy(event_rows.event(values), copy, place)
    return [
        Told([copies[copy] for copy in sorted(copies)], versions.pop(MERGED, 0), frozenset(copy for copy in copies if versions[copy] > 1))
        for copies, versions in events.values()
    ]


def asked_for(hashes: Iterable[int]) -> list[dict[str, Any]]:
    """A table of that name, for one query: as many hashes as there may be do not fit into its text (256 KiB)."""
    return [{"name": "asked_for", "structure": [("id_hash", "UInt64")], "data": [(id_hash,) for id_hash in hashes]}]


def _row(event: Event, copy: int, version: int, *, hidden: bool, place: tuple[int, int]) -> Row:
    return Row(event.portal_id, event.utk, event.event_id, copy, version, event, hidden, place)
