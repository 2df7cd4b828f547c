"""`sessionize`: activity in, sessions out (spec: sessions.md).

Partition p of every raw topic has the same cookies, since the key is the utk; so one part of the table `visitors` has all that
is known of a cookie: its history (pipeline/history), in blocks that speak of many cookies.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pipeline.adapters.avro import Registry
from pipeline.adapters.changelog import Output
from pipeline.agents.decoding import Arrived
from pipeline.agents.policy_mark import PolicyMark
from pipeline.agents.stateful import Effects
from pipeline.core.events import EventId, PortalId, Utk
from pipeline.core.ids import session_id, uuid5_octets
from pipeline.core.policy import SessionPolicy
from pipeline.core.sessions import Retention
from pipeline.history.arrivals import arrivals, together
from pipeline.history.history import Changed, History
from pipeline.history.shapes import id_texts
from pipeline.policy_file import load_policy
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.agents.harness import Part

SOURCES = ("page-views", "email-clicks", "form-submissions", "identifies", "custom-events", "event-copies")
TABLE = "visitors"

Encode = Callable[[str, pl.DataFrame], list[bytes]]
"""`Registry.encode_frame`."""


class Visitors:
    """The cookies of one partition."""

    def __init__(self, policy: SessionPolicy, retention: Retention, encode: Encode) -> None:
        self._history = History(policy, retention)
        self._encode = encode
        self._mark = PolicyMark(policy, "[sessions]")

    def restore(self, items: Mapping[bytes, bytes]) -> None:
        """Becomes the state that these items of the changelog are. UserError if it was made under another policy."""
        self._history.restore(self._mark.check(items))

    def apply(self, arrived: Sequence[Arrived], *, again: bool = False) -> Effects:
        """Folds in the events of a batch, each with the key of its record."""
        changed = self._history.add(together(arrivals(batch, each.keys) for each in arrived for batch in each.batches), again=again)
        return Effects(list(self._outputs(changed)), self._mark.changes() | changed.items, changed.late)

    def everything(self) -> Iterator[Output]:
        for changed in self._history.everything():
            yield from self._outputs(changed)

    def _outputs(self, changed: Changed) -> Iterator[Output]:
        yield from removals(self._history, changed)
        yield from session_records(frame(self._history, changed), self._encode)


def frame(history: History, changed: Changed) -> pl.DataFrame:
    """The sessions that are new or different, as columns of the record `session`."""
    sessions = history.frame(changed)
    names = sessions.select(pl.format("{}|{}|{}", "portal_id", "utk", "first_event_id")).to_series()
    ids = id_texts(np.frombuffer(uuid5_octets(names), "S16"))  # as `core.ids.session_id`
    return sessions.insert_column(2, pl.Series("session_id", ids, pl.String))


def session_records(sessions: pl.DataFrame, encode: Encode) -> Iterator[Output]:
    """These columns as records."""
    keys = sessions.select(pl.format("{}|{}|{}", "portal_id", "utk", "session_id").cast(pl.Binary)).to_series()
    for key, value in zip(keys.to_list(), encode("session", sessions), strict=True):
        yield Output("sessions", key, value)


def removals(history: History, changed: Changed) -> Iterator[Output]:
    """That sessions are no more."""
    for cookie, first_event in history.removed(changed):
        portal, _, utk = cookie.partition("|")
        yield Output("sessions", f"{cookie}|{session_id(PortalId(int(portal)), Utk(utk), EventId(first_event))}".encode(), None)


def sessionize(settings: Settings) -> "Part":
    """The part, ready to run."""
    from pipeline.agents.harness import Fold, part  # Faust, which a rebuild does not need

    registry = Registry(settings)
    retention = Retention(settings.sessions.retention, settings.sessions.max_events_per_cookie)
    visitors = partial(Visitors, load_policy(settings.policy_file).sessions, retention, registry.encode_frame)
    return part(settings, "sessionize", Fold(SOURCES, TABLE, visitors), decode=registry.decode_events)
