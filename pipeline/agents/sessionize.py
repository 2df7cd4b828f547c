"""`sessionize`: activity in, sessions out (spec: sessions.md).

Partition p of every raw topic has the same cookies, since the key is the utk; so one part of the table `visitors` has all that
is known of a cookie: its history (pipeline/history), in blocks that speak of many cookies.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.adapters.avro import Registry
from pipeline.adapters.changelog import Output
from pipeline.agents.decoding import Arrived
from pipeline.agents.policy_mark import PolicyMark
from pipeline.agents.stateful import Effects
from pipeline.core.events import EventId, PortalId, Utk
from pipeline.core.ids import session_id
from pipeline.core.policy import SessionPolicy
from pipeline.core.sessions import Retention, Session
from pipeline.history.arrivals import arrivals, together
from pipeline.history.history import Changed, History
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
        self._history = History(policy, retention)
        self._encode = encode
        self._mark = PolicyMark(policy, "[sessions]")

    def restore(self, items: Mapping[bytes, bytes]) -> None:
        """Becomes the state that these items of the changelog are. UserError if it was made under another policy."""
        self._history.restore(self._mark.check(items))

    def apply(self, arrived: Sequence[Arrived]) -> Effects:
        """Folds in the events of a batch, each with the key of its record."""
        changed = self._history.add(together(arrivals(batch, each.keys) for each in arrived for batch in each.batches))
        return Effects(list(self._outputs(changed)), self._mark.changes() | changed.items, changed.late)

    def everything(self) -> Iterator[Output]:
        for changed in self._history.everything():
            yield from self._outputs(changed)

    def _outputs(self, changed: Changed) -> Iterator[Output]:
        yield from removals(self._history, changed)
        yield from session_records(columns(self._history, changed), self._encode)


def columns(history: History, changed: Changed) -> list[list[Any]]:
    """The sessions that are new or different, as columns of the record `session`."""
    portals, utks, *fields = history.columns(changed)
    firsts = fields[_FIRST_EVENT]
    return [portals, utks, list(map(session_id, portals, utks, firsts)), *fields]  # type: ignore[arg-type]


def session_records(sessions: Sequence[Sequence[Any]], encode: Encode) -> Iterator[Output]:
    """These columns as records."""
    portals, utks, ids, *_ = sessions
    for portal, utk, id_, value in zip(portals, utks, ids, encode("session", sessions), strict=True):
        yield Output("sessions", f"{portal}|{utk}|{id_}".encode(), value)


def removals(history: History, changed: Changed) -> Iterator[Output]:
    """That sessions are no more."""
    for cookie, first_event in history.removed(changed):
        portal, _, utk = cookie.partition("|")
        yield Output("sessions", f"{cookie}|{session_id(PortalId(int(portal)), Utk(utk), EventId(first_event))}".encode(), None)


_FIRST_EVENT = Session.__struct_fields__.index("first_event_id")


def sessionize(settings: Settings) -> "Part":
    """The part, ready to run."""
    from pipeline.agents.harness import Fold, part  # Faust, which a rebuild does not need

    registry = Registry(settings)
    retention = Retention(settings.sessions.retention, settings.sessions.max_events_per_cookie)
    visitors = partial(Visitors, load_policy(settings.policy_file).sessions, retention, registry.encode_columns)
    return part(settings, "sessionize", Fold(SOURCES, TABLE, visitors), decode=registry.decode_events)
