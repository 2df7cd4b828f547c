"""`resolve`: the two pure functions on a set of events, no Kafka, no ClickHouse (spec: timeline.md, "Commands").

This is the definition that everything live is held to: parse, make one event of the copies of each, leave out what is retracted, fold
the evidence of each portal, cut the activity of each cookie into sessions, and say whose every event is. Apart from `rejected`, the output
depends on the set of lines only: it is byte-equal for any order and duplication of them.
"""

import gc
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from pipeline.core.canonical import compared_fields, compared_hash
from pipeline.core.copies import merge
from pipeline.core.events import Event, EventId, Millis, PortalId, Utk
from pipeline.core.evidence import Evidence, evidence_of
from pipeline.core.identity import Fold
from pipeline.core.identity import fold as fold_identity
from pipeline.core.outcomes import Reason, Refused
from pipeline.core.parsing import parse_line
from pipeline.core.policy import Policy
from pipeline.core.retractions import retracted
from pipeline.core.sessions import activity_of
from pipeline.core.sessions import fold as fold_sessions
from pipeline.core.timeline import owner_of
from pipeline.errors import UserError
from pipeline.lines import numbered_lines


class ContactRow(msgspec.Struct, gc=False):
    portal_id: PortalId
    contact_id: str
    email: str | None
    former_emails: list[str]
    external_id: str | None
    created_at: Millis
    created_by: EventId
    merged_into: str | None


class LinkRow(msgspec.Struct, gc=False):
    portal_id: PortalId
    utk: Utk
    contact_id: str
    status: str
    valid_from: Millis | None
    valid_to: Millis | None
    rule: str
    evidence: EventId


class SessionRow(msgspec.Struct, gc=False):
    portal_id: PortalId
    utk: Utk
    session_id: str
    number: int
    started_at: Millis
    ended_at: Millis
    previous_started_at: Millis | None
    activity_count: int
    page_view_count: int
    entry_url: str | None
    exit_url: str | None
    source: str | None


class EventRow(msgspec.Struct, gc=False):
    portal_id: PortalId
    event_id: EventId
    type: str
    occurred_at: Millis
    utk: Utk | None
    contact_id: str | None
    temporary_contact_id: str | None
    session_id: str | None
    session_number: int | None
    rule: str
    evidence: EventId | None


class RejectedRow(msgspec.Struct, gc=False):
    line: int
    reason: str
    detail: str


class Resolution(msgspec.Struct, gc=False):
    """What a set of events means; the rows are sorted as the spec says."""

    contacts: list[ContactRow]
    links: list[LinkRow]
    sessions: list[SessionRow]
    events: list[EventRow]
    rejected: list[RejectedRow]

    def to_json(self) -> bytes:
        """The one JSON object that `resolve` prints."""
        return msgspec.json.encode(self)


class Numbered(NamedTuple):
    """An event and the first line where it stands."""

    event: Event
    line: int


def resolve_file(path: Path, policy: Policy) -> bytes:
    """The output of `resolve` for a file of JSON lines. UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return resolve_lines(numbered_lines(file), policy).to_json()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the path of a file of JSON lines") from None


def resolve_lines(lines: Iterable[tuple[int, bytes]], policy: Policy) -> Resolution:
    """The meaning of numbered lines (without their ends, blank ones left out)."""
    with _without_garbage_collection():
        events, rejected = _read(lines)
        resolution = resolve_events(events, policy)
        resolution.rejected = sorted(rejected, key=lambda row: row.line)
        return resolution


def resolve_events(events: Iterable[Event], policy: Policy) -> Resolution:
    """The meaning of a set of events, each given once (`pipeline.core.copies.merge`)."""
    events = list(events)
    gone = retracted(events)
    ordered = [event for event in events if (event.portal_id, event.event_id) not in gone] if gone else events
    ordered.sort(key=lambda event: (event.portal_id, event.occurred_at, event.event_id))
    identities = _identities(ordered, policy)
    sessions, places = _sessions(ordered, policy)
    rows = []
    for event, (session_id, number) in zip(ordered, places, strict=True):
        owner = owner_of(event, identities[event.portal_id])
        rows.append(
            EventRow(
                event.portal_id,
                event.event_id,
                event.type,
                event.occurred_at,
                event.utk,
                owner.contact_id,
                owner.temporary_contact_id,
                session_id,
                number,
                owner.rule,
                owner.evidence,
            )
        )
    return Resolution(_contacts(identities), _links(identities), sessions, rows, [])


def _read(lines: Iterable[tuple[int, bytes]]) -> tuple[list[Event], list[RejectedRow]]:
    """The events of the lines, one of each id, and what was rejected."""
    events: dict[tuple[PortalId, EventId], Event] = {}
    first_lines: list[int] = []  # of the events, in their order: one object less for each event
    copies: dict[tuple[PortalId, EventId], list[Numbered]] = {}
    refused: dict[bytes, RejectedRow] = {}
    for number, line in lines:
        event = parse_line(line)
        if isinstance(event, Refused):
            if line not in refused:
                refused[line] = RejectedRow(number, event.reason, event.detail)
            continue
        key = event.portal_id, event.event_id
        there = events.setdefault(key, event)
        if there is event:
            first_lines.append(number)
        elif there != event:
            copies.setdefault(key, []).append(Numbered(event, number))
    rejected = list(refused.values())
    places = zip(events, first_lines, strict=True) if copies else ()
    for key, line_number in [place for place in places if place[0] in copies]:
        numbered_copies = [Numbered(events[key], line_number), *copies[key]]
        events[key], conflicts = merge([copy.event for copy in numbered_copies])
        rejected += (_conflict(events[key], conflict, numbered_copies) for conflict in conflicts)
    return list(events.values()), rejected


def _conflict(event: Event, conflict: Event, copies: Iterable[Numbered]) -> RejectedRow:
    rank = compared_hash(conflict)
    line = min(copy.line for copy in copies if compared_hash(copy.event) == rank)
    return RejectedRow(line, Reason.CONFLICTING_DUPLICATE, conflict_detail(event, conflict))


def conflict_detail(event: Event, conflict: Event) -> str:
    """Why a copy of an event is not that event, in words."""
    kept, other = compared_fields(event), compared_fields(conflict)
    names = [name for name, value in other.items() if kept.get(name, value) != value]
    return f"event {event.event_id} has a more complete copy that differs in {', '.join(names) or 'fields that a third copy added'}"


def _identities(events: Iterable[Event], policy: Policy) -> dict[PortalId, Fold]:
    evidence: dict[PortalId, list[Evidence]] = defaultdict(list)
    for event in events:
        of_portal = evidence[event.portal_id]
        if (item := evidence_of(event)) is not None:
            of_portal.append(item)
    return {portal: fold_identity(portal, items, policy.identity) for portal, items in evidence.items()}


Place = tuple[str | None, int | None]
"""Session id and number of an event; None for one that is in no session."""


def _sessions(events: Sequence[Event], policy: Policy) -> tuple[list[SessionRow], list[Place]]:
    """All sessions, sorted, and the place of each event; the events are in order of time and id."""
    by_cookie: dict[tuple[PortalId, Utk], list[int]] = defaultdict(list)
    activities = list(map(activity_of, events))
    for position, event in enumerate(events):
        if activities[position] is not None and event.utk is not None:
            by_cookie[event.portal_id, event.utk].append(position)
    rows: list[SessionRow] = []
    places: list[Place] = [(None, None)] * len(events)
    for portal, utk in sorted(by_cookie):
        members = by_cookie[portal, utk]
        of_cookie = [activity for position in members if (activity := activities[position]) is not None]
        done = 0
        for session in fold_sessions(of_cookie, policy.sessions):
            session_id = session.id_of(portal, utk)
            rows.append(
                SessionRow(
                    portal,
                    utk,
                    session_id,
                    session.number,
                    session.started_at,
                    session.ended_at,
                    session.previous_started_at,
                    session.activity_count,
                    session.page_view_count,
                    session.entry_url,
                    session.exit_url,
                    session.source,
                )
            )
            place = session_id, session.number
            for position in members[done : done + session.activity_count]:
                places[position] = place
            done += session.activity_count
    return rows, places


def _contacts(identities: dict[PortalId, Fold]) -> list[ContactRow]:
    rows = [
        ContactRow(
            portal,
            contact.contact_id,
            contact.email,
            list(contact.former_emails),
            contact.external_id,
            contact.created_at,
            contact.created_by,
            contact.merged_into,
        )
        for portal, fold in identities.items()
        for contact in fold.contacts.values()
    ]
    return sorted(rows, key=lambda row: (row.portal_id, row.created_at, row.contact_id))


def _links(identities: dict[PortalId, Fold]) -> list[LinkRow]:
    return [
        LinkRow(portal, utk, link.contact_id, link.status, link.valid_from, link.valid_to, link.rule, link.evidence)
        for portal, fold in sorted(identities.items())
        for utk, links in sorted(fold.links.items())
        for link in links
    ]


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Millions of live objects and no cycles: collecting would only walk them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
