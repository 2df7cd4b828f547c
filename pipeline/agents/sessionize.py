"""`sessionize`: activity in, sessions out (spec: sessions.md).

Partition p of every raw topic has the same cookies, since the key is the utk; so one part of the table `visitors` has all that
is known of a cookie. A record's key says which cookie it concerns. On the raw topics that is the event's own; on `event-copies`
it may be another: a copy of an event that also exists with this cookie, without which nobody could tell whose event it is in the end.

The table has, per cookie, an item for each remembered event (its copies) and one for what was forgotten (the fold's state).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import lz4.block
import msgspec

from pipeline.adapters.avro import Registry
from pipeline.adapters.changelog import Output
from pipeline.agents.harness import Effects, Fold, Part, part
from pipeline.agents.policy_mark import PolicyMark
from pipeline.core.copies import KEPT_BY_SESSIONS, Trace, trace
from pipeline.core.events import Event, EventId, PortalId, Utk
from pipeline.core.ids import session_id
from pipeline.core.policy import SessionPolicy
from pipeline.core.sessions import CookieState, Retention, Session, SessionChanges, advance
from pipeline.policy_file import load_policy
from pipeline.settings import Settings

SOURCES = ("page-views", "email-clicks", "form-submissions", "identifies", "custom-events", "event-copies")
TABLE = "visitors"

Cookie = tuple[PortalId, Utk]
Encode = Callable[[str, Mapping[str, Any]], bytes]
"""`Registry.encode`."""

_encode = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(CookieState).decode
_decode_copies = msgspec.msgpack.Decoder(tuple[Trace, ...]).decode
_decode_session = msgspec.msgpack.Decoder(Session).decode


class Visitors:
    """The cookies of one partition. States are kept packed, since most are seldom touched: about 130 bytes an event."""

    def __init__(self, policy: SessionPolicy, retention: Retention, encode: Encode) -> None:
        self._policy = policy
        self._retention = retention
        self._encode = encode
        self._mark = PolicyMark(policy, "[sessions]")
        self._states: dict[Cookie, bytes] = {}

    def restore(self, items: Mapping[bytes, bytes]) -> None:
        """Becomes the state that these items of the changelog are. UserError if it was made under another policy."""
        items = self._mark.check(items)
        forgotten: dict[Cookie, Session] = {}
        copies: dict[Cookie, dict[EventId, tuple[Trace, ...]]] = defaultdict(dict)
        for key, value in items.items():
            portal, utk, *event = key.decode().split("|")
            cookie = PortalId(int(portal)), Utk(utk)
            if event:
                copies[cookie][EventId(event[0])] = _decode_copies(value)
            else:
                forgotten[cookie] = _decode_session(value)
        self._states = {cookie: _pack(CookieState(forgotten.get(cookie), copies.get(cookie, {}))) for cookie in {*copies, *forgotten}}

    def apply(self, arrivals: Sequence[tuple[bytes | None, Event]]) -> Effects:
        """Folds in the events of a batch, each with the key of its record."""
        effects = Effects([], self._mark.changes(), 0)
        for cookie, traces in _by_cookie(arrivals).items():
            state = self._states.get(cookie)
            new_state, changes = advance(_unpack(state) if state else CookieState(), traces, cookie[1], self._policy, self._retention)
            if changes.events:
                self._states[cookie] = _pack(new_state)
            self._add(effects, cookie, changes)
            effects = effects._replace(late=effects.late + changes.late)
        return effects

    def _add(self, effects: Effects, cookie: Cookie, changes: SessionChanges) -> None:
        """What the changes of one cookie mean for readers and for the changelog."""
        portal, utk = cookie
        prefix = f"{portal}|{utk}"
        for session in changes.upserts:
            id_ = session.id_of(portal, utk)
            value = self._encode("session", {"portal_id": portal, "utk": utk, "session_id": id_, **msgspec.structs.asdict(session)})
            effects.outputs.append(Output("sessions", f"{prefix}|{id_}".encode(), value))
        for first_event in changes.removed:
            effects.outputs.append(Output("sessions", f"{prefix}|{session_id(portal, utk, first_event)}".encode(), None))
        for event_id, copies in changes.events.items():
            effects.changes[f"{prefix}|{event_id}".encode()] = None if copies is None else _encode(copies)
        if changes.forgotten is not None:
            effects.changes[prefix.encode()] = _encode(changes.forgotten)


def _pack(state: CookieState) -> bytes:
    packed: bytes = lz4.block.compress(_encode(state))
    return packed


def _unpack(state: bytes) -> CookieState:
    return _decode_state(lz4.block.decompress(state))


def _by_cookie(arrivals: Iterable[tuple[bytes | None, Event]]) -> dict[Cookie, list[Trace]]:
    """Traces by the cookie that their key names; records without a cookie have another kind of key."""
    found: dict[Cookie, list[Trace]] = defaultdict(list)
    for key, event in arrivals:
        if key is not None and len(key) == 32:
            found[event.portal_id, Utk(key.decode("ascii", "replace"))].append(trace(event, KEPT_BY_SESSIONS))
    return found


def sessionize(settings: Settings) -> Part:
    """The part, ready to run."""
    registry = Registry(settings)
    retention = Retention(settings.sessions.retention, settings.sessions.max_events_per_cookie)
    visitors = partial(Visitors, load_policy(settings.policy_file).sessions, retention, registry.encode)
    return part(settings, "sessionize", Fold(SOURCES, TABLE, visitors), decode=registry.decode_events)
