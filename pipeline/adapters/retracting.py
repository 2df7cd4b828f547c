"""Retractions in ClickHouse (spec: events.md, "Retractions"): marks what is retracted, and tells the cookies that it concerns.

A retraction names an event id, and only here it is known where that event lies. Looks, after the arrivals of `check` were inserted, which
of them retract or are retracted; everything that hangs together with them through retractions is decided together:

    the retractions that decide about an event, in all their copies, for its cookies  ->  `event-copies`   (flushed first)
    for each event whether it is retracted, and by which, version n                   ->  `retracted_rows` (last: all is done)

A retraction decides about the event that it names, and about what that one retracts, and so on. n is the number of different copies that
are known of an event and of all that decides about it; where it is written already, nothing is left to do. As with copies of one
event (event_copies.py) all is a function of a set that only grows: whoever inserts last, the event or the retraction, sees both, and the
larger set has the higher version.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from clickhouse_driver import Client

from pipeline.adapters.event_copies import ALL_AT_ONCE, EVENTS_AT_ONCE, Encode, Publish, Published, Told, asked_for, told
from pipeline.core.copies import merge
from pipeline.core.events import Event, EventId, PortalId, Retraction
from pipeline.core.retractions import retracted

_CONCERNED = """
SELECT DISTINCT id_hash FROM retraction_pairs WHERE id_hash IN (SELECT id_hash FROM event_checks WHERE batch = %(check)s)
"""
_ALL_CONCERNED = "SELECT DISTINCT id_hash FROM retraction_pairs"
_BESIDE = "SELECT DISTINCT beside FROM retraction_pairs WHERE id_hash IN asked_for"
_VERSIONS = """
SELECT portal_id, event_id, max(version) FROM retracted_rows WHERE (portal_id, utk, event_id) IN %(places)s GROUP BY portal_id, event_id
"""
_PLACES_AT_ONCE = 1_000
"""So many places of events stand in one query's text."""
_COLUMNS = ("portal_id", "utk", "event_id", "retracted", "retracted_by", "version")

T = TypeVar("T")
Id = tuple[PortalId, EventId]
Row = tuple[int, str, str, int, str | None, int]
"""The values of `_COLUMNS`."""


def settle(client: Client, check: int, encode: Encode, publish: Publish) -> int:
    """Does all of the above for the events whose arrivals are named by `check`; how many events were decided about."""
    return _settle_hashes(client, client.execute(_CONCERNED, {"check": check}), encode, publish, EVENTS_AT_ONCE)


def settle_all(client: Client, encode: Encode, publish: Publish) -> int:
    """The same for all events that there are."""
    return _settle_hashes(client, client.execute(_ALL_CONCERNED), encode, publish, ALL_AT_ONCE)


def _settle_hashes(client: Client, found: Sequence[tuple[int]], encode: Encode, publish: Publish, at_once: int) -> int:
    settled = 0
    for some in _chunks([id_hash for (id_hash,) in found], at_once):
        events = [event for hashes in _chunks(_closure(client, some), at_once) for event in told(client, hashes)]
        known = _versions(client, events)
        verdicts = [verdict for verdict in judged(events) if known[_id(verdict.event)] < verdict.version]
        publish(dict.fromkeys(record for verdict in verdicts for record in verdict.for_cookies(encode)))
        rows = [row for verdict in verdicts for row in verdict.rows()]
        if rows:
            client.execute(f"INSERT INTO retracted_rows ({', '.join(_COLUMNS)}) VALUES", rows)
        settled += len(verdicts)
    return settled


class Verdict(NamedTuple):
    """Whether an event is retracted, and by which retraction; `deciding` are all that have a say in it, in any of their copies."""

    event: Told
    merged: Event
    by: EventId | None
    deciding: Sequence[Told]

    @property
    def version(self) -> int:
        return len(self.event.copies) + sum(len(retraction.copies) for retraction in self.deciding)

    def for_cookies(self, encode: Encode) -> Iterator[Published]:
        """The deciding retractions, in all their copies, for each cookie of the event."""
        for utk in sorted({copy.event.utk for copy in self.event.copies if copy.event.utk}):
            yield from (
                Published("event-copies", utk.encode(), encode(copy.event))
                for retraction in self.deciding
                for copy in retraction.copies
                if copy.event.utk != utk
            )

    def rows(self) -> Iterator[Row]:
        """One for each place of the event."""
        for utk in sorted({copy.event.utk or "" for copy in self.event.copies} | {self.merged.utk or ""}):
            yield self.merged.portal_id, utk, self.merged.event_id, int(self.by is not None), self.by, self.version


def judged(events: Sequence[Told]) -> Iterator[Verdict]:
    """About each of these events, among which is whatever hangs together with one of them through retractions."""
    merged = [merge([copy.event for copy in event.copies]).event for event in events]
    gone = retracted(merged)
    naming: dict[Id, dict[Id, Told]] = defaultdict(dict)
    for event in events:
        for copy in event.copies:
            if isinstance(copy.event, Retraction):
                naming[copy.event.portal_id, copy.event.retracts][_id(event)] = event
    for event, whole in zip(events, merged, strict=True):
        yield Verdict(event, whole, gone.get(_id(event)), _deciding(event, naming))


def _deciding(event: Told, naming: Mapping[Id, Mapping[Id, Told]]) -> list[Told]:
    """The retractions that name the event, those that name these, and so on; if copies contradict each other, perhaps in a circle."""
    found: dict[Id, Told] = {}
    ahead = [_id(event)]
    while ahead:
        further = {id_: retraction for id_, retraction in naming.get(ahead.pop(), {}).items() if id_ not in found}
        found |= further
        ahead += further
    found.pop(_id(event), None)
    return list(found.values())


def _versions(client: Client, events: Sequence[Told]) -> defaultdict[Id, int]:
    """What is written about these events so far: up to how many copies it knows, 0 if nothing."""
    places = {(copy.event.portal_id, copy.event.utk or "", copy.event.event_id) for event in events for copy in event.copies}
    known: defaultdict[Id, int] = defaultdict(int)
    for some in _chunks(sorted(places), _PLACES_AT_ONCE):
        for portal, id_, version in client.execute(_VERSIONS, {"places": some}):
            known[portal, EventId(str(id_))] = max(known[portal, EventId(str(id_))], version)
    return known


def _id(event: Told) -> Id:
    return event.copies[0].event.portal_id, event.copies[0].event.event_id


def _closure(client: Client, hashes: Sequence[int]) -> list[int]:
    """These events and all that hang together with them through retractions, by hash."""
    found = set(hashes)
    ahead = list(hashes)
    while ahead:
        beside = {near for (near,) in client.execute(_BESIDE, external_tables=asked_for(ahead))}
        ahead = sorted(beside - found)
        found |= beside
    return sorted(found)


def _chunks(whole: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (whole[start : start + size] for start in range(0, len(whole), size))
