"""`sessionize`: activity in, sessions out (spec: sessions.md).

Partition p of every raw topic has the same cookies, since the key is the utk; so one part of the table `visitors` has all that
is known of a cookie. A record's key says which cookie it concerns. On the raw topics that is the event's own; on `event-copies`
it may be another: a copy of an event that also exists with this cookie, without which nobody could tell whose event it is in the end; or
a retraction that decides about an event of this cookie.

The table has, per cookie, its events in numbered chunks (visitor.py), and an item for what was forgotten (the fold's state).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.adapters.avro import Registry
from pipeline.adapters.changelog import Output
from pipeline.agents.policy_mark import PolicyMark
from pipeline.agents.stateful import Effects
from pipeline.agents.visitor import Cookie, Rules, Visitor, Written
from pipeline.agents.words import Words
from pipeline.core.events import Event, PortalId, Utk
from pipeline.core.ids import session_id
from pipeline.core.policy import SessionPolicy
from pipeline.core.sessions import Retention, Session
from pipeline.policy_file import load_policy
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.agents.harness import Part

SOURCES = ("page-views", "email-clicks", "form-submissions", "identifies", "custom-events", "event-copies")
TABLE = "visitors"

Encode = Callable[[str, Sequence[Sequence[Any]]], list[bytes]]
"""`Registry.encode_columns`."""


class Visitors:
    """The cookies of one partition."""

    def __init__(self, policy: SessionPolicy, retention: Retention, encode: Encode) -> None:
        self._rules = Rules(policy, retention, Words())
        self._encode = encode
        self._mark = PolicyMark(policy, "[sessions]")
        self._visitors: dict[Cookie, Visitor] = {}

    def restore(self, items: Mapping[bytes, bytes]) -> None:
        """Becomes the state that these items of the changelog are. UserError if it was made under another policy."""
        items = self._mark.check(items)
        forgotten: dict[Cookie, bytes] = {}
        chunks: dict[Cookie, dict[int, bytes]] = defaultdict(dict)
        for key, value in items.items():
            portal, utk, *number = key.decode().split("|")
            cookie = PortalId(int(portal)), Utk(utk)
            if number:
                chunks[cookie][int(number[0])] = value
            else:
                forgotten[cookie] = value
        self._visitors = {cookie: Visitor.restore(cookie, of_cookie, forgotten.get(cookie, b"")) for cookie, of_cookie in chunks.items()}

    def apply(self, arrivals: Sequence[tuple[bytes | None, Event]]) -> Effects:
        """Folds in the events of a batch, each with the key of its record."""
        effects = Effects([], self._mark.changes(), 0)
        upserts: list[tuple[Cookie, Session]] = []
        late = 0
        for cookie, events in _by_cookie(arrivals).items():
            visitor = self._visitors.get(cookie) or Visitor(cookie)
            written = visitor.add(events, self._rules)
            if written.chunks:
                self._visitors[cookie] = visitor
                _add(effects, cookie, written)
                upserts += [(cookie, session) for session in written.upserts]
            late += written.late
        effects.outputs.extend(self._session_records(upserts))
        return effects._replace(late=late)

    def _session_records(self, upserts: Sequence[tuple[Cookie, Session]]) -> Iterator[Output]:
        """Encoded in columns: one by one takes twice as long."""
        if not upserts:
            return
        cookies, sessions = zip(*upserts, strict=True)
        portals, utks = zip(*cookies, strict=True)
        ids = [session.id_of(portal, utk) for (portal, utk), session in upserts]
        values = self._encode("session", [portals, utks, ids, *zip(*map(msgspec.structs.astuple, sessions), strict=True)])
        for portal, utk, id_, value in zip(portals, utks, ids, values, strict=True):
            yield Output("sessions", f"{portal}|{utk}|{id_}".encode(), value)


def _add(effects: Effects, cookie: Cookie, written: Written) -> None:
    """What is no more of one cookie, for readers, and what changed, for the changelog."""
    portal, utk = cookie
    prefix = f"{portal}|{utk}"
    for first_event in written.removed:
        effects.outputs.append(Output("sessions", f"{prefix}|{session_id(portal, utk, first_event)}".encode(), None))
    for number, chunk in written.chunks.items():
        effects.changes[f"{prefix}|{number}".encode()] = chunk
    if written.forgotten is not None:
        effects.changes[prefix.encode()] = written.forgotten


def _by_cookie(arrivals: Iterable[tuple[bytes | None, Event]]) -> dict[Cookie, list[Event]]:
    """Events by the cookie that their key names; records without a cookie have another kind of key."""
    found: dict[Cookie, list[Event]] = defaultdict(list)
    for key, event in arrivals:
        if key is not None and len(key) == 32:
            found[event.portal_id, Utk(key.decode("ascii", "replace"))].append(event)
    return found


def sessionize(settings: Settings) -> "Part":
    """The part, ready to run."""
    from pipeline.agents.harness import Fold, part  # Faust, which a rebuild does not need

    registry = Registry(settings)
    retention = Retention(settings.sessions.retention, settings.sessions.max_events_per_cookie)
    visitors = partial(Visitors, load_policy(settings.policy_file).sessions, retention, registry.encode_columns)
    return part(settings, "sessionize", Fold(SOURCES, TABLE, visitors), decode=registry.decode_events)
