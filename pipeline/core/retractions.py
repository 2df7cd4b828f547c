"""Retractions: events that never happened after all (spec: events.md, "Retractions").

A retraction acts on the event that it names if that event comes before it in the order (`occurred_at`, `event_id`), and if it is not
retracted itself. What could retract it comes after it, so one walk from the newest retraction backwards decides everything. Times are those
of the merged events: the rule is about events, each given once, whatever copies it has.

Two forms: `retracted` for a whole set of events; `retracted_among` for the few that hang together through retractions, which
`Retractions` finds as they come in.
"""

from collections.abc import Collection, Iterable

from pipeline.core.events import Event, EventId, Millis, PortalId, Retraction

Told = tuple[Millis, EventId, EventId | None]
"""What this rule sees of an event: time and id, and of a retraction the id that it retracts."""


def retracted(events: Collection[Event]) -> dict[tuple[PortalId, EventId], EventId]:
    """The events of this set (of any portals, one of each id) that are retracted, each with the newest retraction that acts on it."""
    named: dict[PortalId, set[EventId]] = {}
    for event in events:
        if isinstance(event, Retraction):
            named.setdefault(event.portal_id, set()).update((event.event_id, event.retracts))
    if not named:
        return {}
    told: dict[PortalId, list[Told]] = {}
    for event in events:
        if event.event_id in named.get(event.portal_id, ()):
            retracts = event.retracts if isinstance(event, Retraction) else None
            told.setdefault(event.portal_id, []).append((event.occurred_at, event.event_id, retracts))
    return {(portal, event_id): by for portal, of_portal in told.items() for event_id, by in retracted_among(of_portal).items()}


def retracted_among(told: Iterable[Told]) -> dict[EventId, EventId]:
    """The same for events of one portal: by id of the retracted event the newest retraction that acts on it."""
    times: dict[EventId, Millis] = {}
    retractions: list[tuple[Millis, EventId, EventId]] = []
    for at, event_id, retracts in told:
        times[event_id] = at
        if retracts is not None:
            retractions.append((at, event_id, retracts))
    gone: dict[EventId, EventId] = {}
    for at, event_id, retracts in sorted(retractions, reverse=True):
        if event_id not in gone and retracts in times and (times[retracts], retracts) < (at, event_id):
            gone.setdefault(retracts, event_id)
    return gone


class Retractions:
    """The retractions of one portal as they come in: which events hang together through them, known events or not."""

    __slots__ = ("_retracted_by", "_retracts")

    def __init__(self) -> None:
        self._retracts: dict[EventId, EventId] = {}
        self._retracted_by: dict[EventId, set[EventId]] = {}

    def note(self, event_id: EventId, retracts: EventId | None) -> set[EventId]:
        """Takes down what an event retracts now (None: nothing). The other events that this may decide about, or that decide about it."""
        before = self._retracts.get(event_id)
        if before is None and retracts is None and event_id not in self._retracted_by:
            return set()
        connected = self._connected(event_id)
        if before != retracts:
            if before is not None:
                self._retracted_by[before].discard(event_id)
                del self._retracts[event_id]
            if retracts is not None:
                self._retracts[event_id] = retracts
                self._retracted_by.setdefault(retracts, set()).add(event_id)
            connected |= self._connected(event_id)
        return connected - {event_id}

    def _connected(self, event_id: EventId) -> set[EventId]:
        """All events that hang together with this one, itself included."""
        found = {event_id}
        ahead = [event_id]
        while ahead:
            here = ahead.pop()
            beside = {*self._retracted_by.get(here, ()), *([self._retracts[here]] if here in self._retracts else ())}
            ahead += beside - found
            found |= beside
        return found
