"""The fast way from a body to events, for what the script nearly always sends: page views of a visitor who need not be asked, or said yes.

msgspec reads the body into the structs below and checks all types on the way; the decisions are those of `hits`. As in
`plain_lines`, it is used only where it is sure to agree with the general way (a test compares the two): anything unusual is
None here, which means "ask `hits`", and never a refusal.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from pipeline.core.events import Event
from pipeline.core.plain_lines import plain_values
from pipeline.core.shapes import PlainObject
from pipeline.edge.core import addresses, cookies, urls
from pipeline.edge.core.clock import corrected
from pipeline.edge.core.consent import Consent
from pipeline.edge.core.hits import MAX_HITS, Request, allowed
from pipeline.edge.core.portal import Portal


class _Answers(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    analytics: bool
    advertisement: bool
    functionality: bool


class _View(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A page view with the members that the script writes, and no other."""

    type: Literal["page_view"]
    event_id: str
    occurred_at: int
    url: str
    title: str | None = None
    referrer: str | None = None
    utk: str | None = None
    hstc: str | None = None
    hssc: str | None = None
    new_browser_session: bool = False
    consent: _Answers | None = None
    properties: PlainObject | None = None


class _Body(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    hits: list[_View]
    sent_at: int | None = None


_decode = msgspec.json.Decoder(_Body).decode


def plain_events(body: bytes, portal: Portal, request: Request) -> Sequence[Event] | None:
    """The events of a body all of whose hits become one; None if anything about it is unusual."""
    if request.bot is not None:
        return None
    try:
        sent = _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if len(sent.hits) > MAX_HITS or addresses.is_in(request.ip, portal.exclude_ips):
        return None
    unasked = allowed(None, portal, request)
    events: list[Event] = []
    for view in sent.hits:
        event = _event(view, sent.sent_at, portal, request) if _may_be_kept(view.consent, unasked) else None
        if event is None:
            return None
        events.append(event)
    return events


def _may_be_kept(answers: _Answers | None, unasked: Consent) -> bool:
    """Whether everything is allowed of which a page view may tell."""
    state = unasked if answers is None else answers
    return state.analytics and state.functionality


def _event(view: _View, sent_at: int | None, portal: Portal, request: Request) -> Event | None:
    moment, mark = corrected(view.occurred_at, sent_at, request.received_at)
    if mark is not None or not portal.has(view.url):
        return None
    values: tuple[Any, ...] = (
        view.event_id,
        portal.id,
        moment,
        request.received_at,
        view.utk,
        urls.cleaned(view.url),
        view.title,
        None if view.referrer is None else urls.cleaned(view.referrer),
        request.user_agent,
        addresses.kept(request.ip, portal.ip),
        view.new_browser_session,
        cookies.hstc(view.hstc),
        cookies.hssc(view.hssc),
        view.properties or None,
    )
    return plain_values("page_view", values)
