"""Sessions: stretches of activity of one cookie (spec: sessions.md).

Sessions are a fold over a cookie's activity in the order (`occurred_at`, `event_id`). The state of that fold is its last session as
far as it is known, and nothing else. Both forms rest on it:

* plain: `fold(activity, policy)` over all of a cookie's activity; what `resolve` does;
* incremental: `CookieState` holds a cookie's recent events and the fold's state before them, and
  `advance` takes the state and a batch of new events and returns the new state and what changed.

A cookie is given, beside its own events, the retractions that decide about them: they are kept like events, and are no activity.

The incremental form may forget the oldest events (`Retention`): it keeps the state that the fold had after them, so what
comes later is computed exactly. Only an event that belongs *before* that point cannot be placed any more: it is late.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from pipeline.core.copies import KEPT_BY_SESSIONS, Trace, add_trace, merge_traces, trace
from pipeline.core.events import EmailClick, Event, EventId, Millis, PageView, PortalId, Retraction, Utk, is_activity
from pipeline.core.ids import SessionId, session_id
from pipeline.core.policy import SessionPolicy
from pipeline.core.retractions import retracted_among

CLICK_ID_PARAMETERS = ("gclid", "dclid", "gbraid", "wbraid", "fbclid", "msclkid", "ttclid", "li_fat_id", "twclid")
UTM_PARAMETERS = ("utm_source", "utm_medium", "utm_campaign")


Activity = tuple[Millis, EventId, str | None, str | None, bool]
"""What a session sees of an event, sorting as in sessions.md: time, event id; of a page view also url, referrer, `new_browser_session`."""


class Session(msgspec.Struct, array_like=True, gc=False):
    """One session; times in epoch milliseconds, fields as in sessions.md. Mutable only while `fold` builds it."""

    number: int
    started_at: Millis
    first_event_id: EventId
    ended_at: Millis
    last_event_id: EventId
    previous_started_at: Millis | None
    activity_count: int
    page_view_count: int
    entry_url: str | None
    exit_url: str | None
    source: str | None

    def id_of(self, portal: PortalId, utk: Utk) -> SessionId:
        """The session's id, if it is one of cookie `utk`."""
        return session_id(portal, utk, self.first_event_id)


class Retention(NamedTuple):
    """How much live state remembers of a cookie: milliseconds before its last activity, and a number of events (a robot has more)."""

    period: int
    max_events: int

    def is_exceeded(self, oldest: Millis, latest: Millis, events: int) -> bool:
        """Whether it is time to forget: a quarter more is remembered than need be, so that it is seldom."""
        return latest - oldest > self.period * 5 // 4 or events > self.max_events * 5 // 4


def activity_of(event: Event) -> Activity | None:
    """What a session sees of an event, None if it is no activity of a cookie."""
    if isinstance(event, PageView):
        return (event.occurred_at, event.event_id, event.url, event.referrer, event.new_browser_session) if event.utk else None
    return (event.occurred_at, event.event_id, None, None, False) if is_activity(event) else None


def fold(activity: Iterable[Activity], policy: SessionPolicy, before: Session | None = None) -> list[Session]:
    """The sessions of a cookie's `activity`, which is sorted by (at, event_id).

    `before` is the fold's state after earlier activity: its session is then the first of the list, continued or not.
    """
    session = None if before is None else msgspec.structs.replace(before)
    sessions = [] if session is None else [session]
    gap, split_on_source = policy.gap, policy.split_on_source_change
    for at, event_id, url, referrer, starts_session in activity:
        source = None
        if url is not None and (session is None or session.source is None or split_on_source):
            source = traffic_source(url, referrer)
        if (
            session is None
            or at - session.ended_at > gap
            or starts_session
            or (split_on_source and source is not None and session.source is not None and source != session.source)
        ):
            number, previous = (1, None) if session is None else (session.number + 1, session.started_at)
            if url is not None and source is None:
                source = traffic_source(url, referrer)
            session = Session(number, at, event_id, at, event_id, previous, 1, int(url is not None), url, url, source)
            sessions.append(session)
            continue
        session.ended_at = at
        session.last_event_id = event_id
        session.activity_count += 1
        if url is not None:
            session.page_view_count += 1
            session.exit_url = url
            if session.entry_url is None:
                session.entry_url = url
            if session.source is None:
                session.source = source
    return sessions


@lru_cache(4096)
def traffic_source(url: str, referrer: str | None) -> str | None:
    """Where a page view came from: campaign parameters, else an advertiser's click id, else another site; None if unknown."""
    query = url.partition("#")[0].partition("?")[2]
    if query and (advertised := campaign(query)) is not None:
        return advertised
    if referrer is not None:
        host = _host(referrer)
        if host is not None and host != _host(url):
            return host
    return None


def campaign(query: str) -> str | None:
    """What the query of an address says of where a page view came from; None if nothing.

    Parameters are decoded as in a form; an empty value is none, and of a repeated parameter the first value counts.
    """
    if not ("utm_" in query or "id=" in query or "%" in query):
        return None
    values = _parameters(query)
    utm = [values.get(name, "") for name in UTM_PARAMETERS]
    if any(utm):
        return "/".join(utm)
    return next((name for name in CLICK_ID_PARAMETERS if name in values), None)


def _parameters(query: str) -> dict[str, str]:
    """The first value of each parameter that has one."""
    if "%" in query or "+" in query:
        return {name: values[0] for name, values in parse_qs(query, max_num_fields=None).items()}
    found: dict[str, str] = {}
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        if value:
            found.setdefault(name, value)
    return found


_PLAIN_HOST = re.compile(r"https?://([a-z0-9.-]+)(?::[0-9]*)?(?:[/?#]|$)")


def _host(url: str) -> str | None:
    """The host in lower case, without port; the pattern is a short cut for what urlsplit finds in nearly all addresses."""
    plain = _PLAIN_HOST.match(url)
    return plain[1] if plain else urlsplit(url).hostname


# The incremental form

Kept = PageView | tuple[Trace, ...]
"""What live state keeps of an event: the traces of all its copies, or a page view of the cookie as it is while there is one copy.

Making traces is a third of the work on an event, and they are needed only when another copy comes.
"""


class CookieState(NamedTuple):
    """Live state of one cookie: the fold's state before the remembered events, and each of these."""

    before: Session | None
    events: dict[EventId, Kept]

    def is_late(self, new: Event) -> bool:
        """Whether the event belongs before the remembered ones, so that it cannot be placed here."""
        last = self.before
        return last is not None and (new.occurred_at, new.event_id) <= (last.ended_at, last.last_event_id)

    def has_forgotten_target(self, new: Event) -> bool:
        """Whether the event retracts one that is not here any more (or not here yet: if anything was forgotten, nobody can tell)."""
        return self.before is not None and isinstance(new, Retraction) and new.retracts not in self.events


class SessionChanges(NamedTuple):
    """What a batch changed for one cookie: sessions that are new or different, and first events of those that are gone.

    `events` that are new, have another copy, or (None) are forgotten. `before` is the fold's state before the remembered events if
    some were forgotten. `late` events could not be placed, or retract what may be forgotten. `last` is the fold's state after everything,
    if something changed.
    """

    upserts: list[Session]
    removed: list[EventId]
    events: dict[EventId, Kept | None]
    before: Session | None
    late: int
    last: Session | None = None


def advance(
    state: CookieState, new: Sequence[Event], utk: Utk, policy: SessionPolicy, retention: Retention
) -> tuple[CookieState, SessionChanges]:
    """The state of cookie `utk` after a batch of `new` events, in any order, and what changed.

    `removed` holds the first event ids of sessions that no longer exist (a session's id follows from it).
    """
    events = dict(state.events)
    late = 0
    changed: dict[EventId, Kept | None] = {}
    for event in new:
        if state.is_late(event):
            late += 1
            continue
        there = events.get(event.event_id)
        together = keep(there, event, utk)
        if together is not there:
            late += state.has_forgotten_target(event)
            events[event.event_id] = changed[event.event_id] = together
    if not changed:
        return state, SessionChanges([], [], {}, None, late)

    activity = activity_in(events, utk)
    after = fold(activity, policy, state.before)
    upserts, removed = _differences(fold(activity_in(state.events, utk), policy, state.before), after)

    forgotten = _forget_from(activity, retention)
    before = state.before
    if forgotten:
        before = fold(activity[:forgotten], policy, state.before)[-1]
        for event_id in _forgettable(events, activity[:forgotten]):
            del events[event_id]
            changed[event_id] = None
    changes = SessionChanges(upserts, removed, changed, before if forgotten else None, late, after[-1] if after else None)
    return CookieState(before, events), changes


def keep(there: Kept | None, new: Event, utk: Utk) -> Kept:
    """What to keep of an event of cookie `utk` with one more copy. The same object if the copy says nothing new."""
    if there is None:
        if isinstance(new, PageView) and new.utk == utk and len(new.properties or "") <= LONG_PROPERTIES:
            return new
        return (trace(new, KEPT_BY_SESSIONS),)
    traces = (trace(there, KEPT_BY_SESSIONS),) if isinstance(there, PageView) else there
    together = add_trace(traces, trace(new, KEPT_BY_SESSIONS))
    return there if together is traces else together


LONG_PROPERTIES = 256
"""Characters. Longer ones are kept as a digest, in a trace."""


def activity_in(events: Mapping[EventId, Kept], utk: Utk) -> list[Activity]:
    """The activity of a cookie, in order. A merged event that is another cookie's after all, or is retracted, is not among it."""
    found: list[Activity] = []
    retractions: list[tuple[Millis, EventId, EventId]] = []
    for kept in events.values():
        if isinstance(kept, PageView):
            found.append((kept.occurred_at, kept.event_id, kept.url, kept.referrer, kept.new_browser_session))
            continue
        merged = merge_traces(kept)
        if (retracts := merged.get("retracts")) is not None:
            retractions.append((merged.occurred_at, merged.event_id, retracts))
        elif merged.get("utk") == utk:
            kind = merged.get("type")
            if kind == PageView.type:
                url, referrer, starts = merged.get("url"), merged.get("referrer"), merged.get("new_browser_session")
                found.append((merged.occurred_at, merged.event_id, url, referrer, starts))
            elif kind != EmailClick.type or not merged.get("bot"):
                found.append((merged.occurred_at, merged.event_id, None, None, False))
    if retractions:
        gone = retracted_among([*retractions, *((at, event_id, None) for at, event_id, *_ in found)])
        found = [activity for activity in found if activity[1] not in gone]
    found.sort()
    return found


def _differences(before: Sequence[Session], after: Sequence[Session]) -> tuple[list[Session], list[EventId]]:
    old = {session.first_event_id: session for session in before}
    upserts = [session for session in after if old.get(session.first_event_id) != session]
    kept = {session.first_event_id for session in after}
    return upserts, [first for first in old if first not in kept]


def _forget_from(activity: Sequence[Activity], retention: Retention) -> int:
    """How many of the oldest activities to forget now."""
    if not activity or not retention.is_exceeded(activity[0][0], activity[-1][0], len(activity)):
        return 0
    oldest = activity[-1][0] - retention.period
    beyond = max(0, len(activity) - retention.max_events)
    while beyond < len(activity) and activity[beyond][0] < oldest:
        beyond += 1
    return beyond


def _forgettable(events: Mapping[EventId, Kept], oldest: Sequence[Activity]) -> list[EventId]:
    """The `oldest` events, and those that are no activity of this cookie (or are retracted) and are as old."""
    active = {event_id for _, event_id, *_ in oldest}
    last = oldest[-1][:2]

    def is_as_old(event_id: EventId, kept: Kept) -> bool:
        return all((copy.occurred_at, event_id) <= last for copy in (kept if isinstance(kept, tuple) else (kept,)))

    return [event_id for event_id, kept in events.items() if event_id in active or is_as_old(event_id, kept)]
