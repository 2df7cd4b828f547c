"""Retractions in ClickHouse (spec: events.md, "Retractions"): marks what is retracted, and tells the cookies that it concerns.

A retraction names an event id, and only here it is known where that event lies. Looks, after the arrivals of `check` were inserted, which
of them retract or are retracted; everything that hangs together with them through retractions is decided together:

    all copies of the retractions, for every cookie among the events     ->  `event-copies`   (flushed first)
    for each event whether it is retracted, and by which, version n      ->  `retracted_rows` (last: it says that all is done)

n is the number of different copies that are known of all these events. As with copies of one event (event_copies.py) all is a function of a
set that only grows: whoever inserts last, the event or the retraction, sees both, and the larger set has the higher version.
"""

from collections.abc import Iterable, Iterator, Sequence

from clickhouse_driver import Client

from pipeline.adapters.event_copies import EVENTS_AT_ONCE, Encode, Publish, Published, Told, told
from pipeline.core.copies import merge
from pipeline.core.events import EventId, PortalId, Retraction
from pipeline.core.retractions import retracted

_CONCERNED = """
SELECT DISTINCT id_hash FROM retraction_pairs WHERE id_hash IN (SELECT id_hash FROM event_checks WHERE batch = %(check)s)
"""
_ALL_CONCERNED = "SELECT DISTINCT id_hash FROM retraction_pairs"
_BESIDE = "SELECT DISTINCT beside FROM retraction_pairs WHERE id_hash IN %(hashes)s"
_COLUMNS = ("portal_id", "utk", "event_id", "retracted", "retracted_by", "version")

Row = tuple[int, str, str, int, str | None, int]
"""The values of `_COLUMNS`."""


def settle(client: Client, check: int, encode: Encode, publish: Publish) -> int:
    """Does all of the above for the events whose arrivals are named by `check`; how many events were decided about."""
    return _settle_hashes(client, client.execute(_CONCERNED, {"check": check}), encode, publish)


def settle_all(client: Client, encode: Encode, publish: Publish) -> int:
    """The same for all events that there are."""
    return _settle_hashes(client, client.execute(_ALL_CONCERNED), encode, publish)


def _settle_hashes(client: Client, found: Sequence[tuple[int]], encode: Encode, publish: Publish) -> int:
    settled = 0
    for some in _chunks([id_hash for (id_hash,) in found]):
        events = [event for hashes in _chunks(_closure(client, some)) for event in told(client, hashes)]
        groups = list(connected(events))
        publish(record for group in groups for record in for_cookies(group, encode))
        rows = [row for group in groups for row in marks(group)]
        if rows:
            client.execute(f"INSERT INTO retracted_rows ({', '.join(_COLUMNS)}) VALUES", rows)
        settled += len(events)
    return settled


def connected(events: Iterable[Told]) -> Iterator[list[Told]]:
    """The events that hang together through retractions, in any of their copies."""
    by_id = {_id(event): event for event in events}
    beside: dict[tuple[PortalId, EventId], set[tuple[PortalId, EventId]]] = {id_: set() for id_ in by_id}
    for id_, event in by_id.items():
        for copy in event.copies:
            if isinstance(copy.event, Retraction) and (target := (id_[0], copy.event.retracts)) in by_id:
                beside[id_].add(target)
                beside[target].add(id_)
    while beside:
        ahead, group = [next(iter(beside))], []
        while ahead:
            if (id_ := ahead.pop()) in beside:
                group.append(by_id[id_])
                ahead += beside.pop(id_)
        yield group


def for_cookies(group: Sequence[Told], encode: Encode) -> Iterator[Published]:
    """The retractions among the events, in all their copies, for each cookie among the events."""
    cookies = sorted({copy.event.utk for event in group for copy in event.copies if copy.event.utk})
    deciding = [event for event in group if any(isinstance(copy.event, Retraction) for copy in event.copies)]
    for utk in cookies:
        for event in deciding:
            yield from (Published("event-copies", utk.encode(), encode(copy.event)) for copy in event.copies if copy.event.utk != utk)


def marks(group: Sequence[Told]) -> Iterator[Row]:
    """For each of the events, in each of its places, whether it is retracted."""
    merged = [merge([copy.event for copy in event.copies]).event for event in group]
    gone = retracted(merged)
    version = sum(len(event.copies) for event in group)
    for event, whole in zip(group, merged, strict=True):
        by = gone.get((whole.portal_id, whole.event_id))
        for utk in sorted({copy.event.utk or "" for copy in event.copies} | {whole.utk or ""}):
            yield whole.portal_id, utk, whole.event_id, int(by is not None), by, version


def _id(event: Told) -> tuple[PortalId, EventId]:
    return event.copies[0].event.portal_id, event.copies[0].event.event_id


def _closure(client: Client, hashes: Sequence[int]) -> list[int]:
    """These events and all that hang together with them through retractions, by hash."""
    found = set(hashes)
    ahead = list(hashes)
    while ahead:
        beside = {near for some in _chunks(ahead) for (near,) in client.execute(_BESIDE, {"hashes": tuple(some)})}
        ahead = sorted(beside - found)
        found |= beside
    return sorted(found)


def _chunks(hashes: Sequence[int]) -> Iterator[Sequence[int]]:
    return (hashes[start : start + EVENTS_AT_ONCE] for start in range(0, len(hashes), EVENTS_AT_ONCE))
