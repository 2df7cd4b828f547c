"""Sessions: stretches of activity of one cookie (spec: sessions.md).

Sessions are a fold over a cookie's activity in the order (`occurred_at`, `event_id`). The state of that fold is its last session as
far as it is known, and nothing else. So there are two forms:

* plain: `fold(activity, policy)` over all of a cookie's activity; what `resolve` does;
* incremental: `pipeline.history` holds the recent events of many cookies and the fold's state before them, and says what a batch of
  new events changes. It does in columns what is defined here.

A cookie is given, beside its own events, the retractions that decide about them: they are kept like events, and are no activity.
"""

import re
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from pipeline.core.caching import remembered
from pipeline.core.copies import KEPT_BY_SESSIONS, Trace, add_trace, trace
from pipeline.core.events import EmailClick, Event, EventId, Millis, PageView, PortalId, Utk, is_activity
from pipeline.core.ids import SessionId, session_id
from pipeline.core.policy import SessionPolicy

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
    """How much live state remembers of a cookie: milliseconds before its last activity, and a number of events (a robot has more).

    What it forgets it has folded before: what comes later is computed exactly. Only an event that belongs *before* that cannot be placed
    any more: it is late.
    """

    period: int
    max_events: int


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


def traffic_source(url: str, referrer: str | None) -> str | None:
    """Where a page view came from: what its address says, else another site; None if unknown."""
    if (named := advertised(url)) is not None:
        return named
    if referrer is not None:
        origin = host(referrer)
        if origin is not None and origin != host(url):
            return origin
    return None


@remembered(16_384)
def advertised(url: str) -> str | None:
    """What an address says of where its page view came from: campaign parameters, else an advertiser's click id; None if nothing."""
    query = url.partition("#")[0].partition("?")[2]
    return campaign(query) if query else None


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


@remembered(16_384)
def host(url: str) -> str | None:
    """The host of an address, in lower case, without port; the pattern is a short cut for what urlsplit finds in nearly all addresses."""
    plain = _PLAIN_HOST.match(url)
    return plain[1] if plain else urlsplit(url).hostname


# What live state keeps (pipeline/history)

Kept = PageView | tuple[Trace, ...]
"""What live state keeps of an event: the traces of all its copies, or a page view of the cookie as it is while there is one copy.

Making a trace takes longer than all else that is done to an event, and of a page view it is needed only when another copy comes.
"""
LONG_PROPERTIES = 256
"""Characters. Longer ones are kept as a digest, in a trace."""


def keep(new: Event, utk: Utk) -> Kept:
    """What to keep of an event that came under the key of cookie `utk`."""
    if isinstance(new, PageView) and new.utk == utk and len(new.properties or "") <= LONG_PROPERTIES:
        return new
    return (trace(new, KEPT_BY_SESSIONS),)


def together(copies: Sequence[Kept]) -> Kept:
    """What to keep of an event with several copies; the first of them as it is if the others say nothing new."""
    first = traces = _traces(copies[0])
    for copy in copies[1:]:
        traces = reduce(add_trace, _traces(copy), traces)
    return copies[0] if traces is first else traces


def _traces(kept: Kept) -> tuple[Trace, ...]:
    return (trace(kept, KEPT_BY_SESSIONS),) if isinstance(kept, PageView) else kept


def activity_of_trace(merged: Trace, utk: Utk) -> Activity | None:
    """What a session of cookie `utk` sees of an event; None if it is no activity, or another cookie's after all."""
    kind = merged.get("type")
    if merged.get("utk") != utk or (kind == EmailClick.type and merged.get("bot")):
        return None
    if kind == PageView.type:
        return merged.occurred_at, merged.event_id, merged.get("url"), merged.get("referrer"), merged.get("new_browser_session") or False
    return merged.occurred_at, merged.event_id, None, None, False
