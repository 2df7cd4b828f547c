"""The cookies of a bucket: their rows -> their sessions, and the state that `sessionize` would have of them.

Most cookies have each event once and under their own key: their sessions are computed in columns, all at once. The others
(several copies of one event, an event that may be another cookie's), and all where sources split sessions, go one by one through
`agents.visitor.Visitor`, which is what the live worker does.
"""

from collections.abc import Iterator
from itertools import groupby, islice
from typing import NamedTuple

import msgspec
import polars as pl

from pipeline.adapters.avro import Registry
from pipeline.agents.visitor import VIEW, Cookie, Rules, Visitor, encoded_chunks, packed_session
from pipeline.bulk import activity
from pipeline.bulk.columnar_sessions import COOKIE, ORDER, SESSION, forgotten, is_forgotten, sessions, with_source
from pipeline.core.copies import KEPT_BY_SESSIONS, Trace, trace
from pipeline.core.events import Event, EventId, PortalId, Utk
from pipeline.core.sessions import Session

Changes = dict[bytes, bytes]
"""Items of the changelog of `sessionize`."""


class Known(NamedTuple):
    """What is known of cookies: their sessions (columns SESSION), and the items that live state is restored from."""

    sessions: pl.DataFrame
    items: Changes


_TEXTS = frozenset({"utk", "first_event_id", "last_event_id", "entry_url", "exit_url", "source"})
SESSION_TYPES = pl.Schema({name: pl.String() if name in _TEXTS else pl.Int64() for name in SESSION})


def known(rows: pl.DataFrame, rules: Rules, registry: Registry) -> Known:
    """All of it, from all rows of some cookies."""
    rows = _distinct(rows)
    is_odd = pl.struct(*COOKIE, "event_id").is_duplicated() | ~pl.col("is_own") | pl.lit(rules.policy.split_on_source_change)
    odd_cookies = rows.filter(is_odd).select(COOKIE).unique()
    plain = _plain(rows.join(odd_cookies, on=COOKIE, how="anti").sort(ORDER), rules, registry)
    odd = _odd(rows.join(odd_cookies, on=COOKIE, how="semi").sort(COOKIE), rules, registry)
    return Known(pl.concat([plain.sessions, odd.sessions]), plain.items | odd.items)


def _distinct(rows: pl.DataFrame) -> pl.DataFrame:
    """Without redelivered copies that are the same in all that is kept."""
    several = rows.select(pl.struct(*COOKIE, "event_id").is_duplicated()).to_series()
    return pl.concat([rows.filter(~several), rows.filter(several).unique()]) if several.any() else rows


def _plain(rows: pl.DataFrame, rules: Rules, registry: Registry) -> Known:
    """Of cookies whose events are their own and have one copy each. The rows are in order."""
    active = with_source(rows.filter("is_active"))
    cut = forgotten(active, rules.retention)
    marked = rows.join(cut, on=COOKIE, how="left", maintain_order="left").with_columns(is_forgotten().alias("gone"))
    items = dict(_chunks(marked.filter(~pl.col("gone")), registry))
    gone = active.join(cut, on=COOKIE, how="inner", maintain_order="left").filter(is_forgotten())
    before = sessions(gone, rules.policy.gap).group_by(COOKIE, maintain_order=True).last()
    for portal, utk, *fields in before.select(SESSION).iter_rows():
        items[f"{portal}|{utk}".encode()] = packed_session(Session(*fields))
    return Known(sessions(active, rules.policy.gap).cast(SESSION_TYPES), items)


def _chunks(rows: pl.DataFrame, registry: Registry) -> Iterator[tuple[bytes, bytes]]:
    """The events of each cookie as items. The rows are in order, so those of a cookie are neighbours."""
    is_view = pl.col("value").is_null()
    views = iter(rows.filter(is_view).select(VIEW).rows())
    copies = iter(activity.events(rows.filter(~is_view), registry))
    counts = rows.group_by(COOKIE, maintain_order=True).agg(is_view.sum(), pl.len().alias("all"))
    for portal, utk, of_views, of_all in counts.iter_rows():
        traces: dict[EventId, tuple[Trace, ...]] = {
            event.event_id: (trace(event, KEPT_BY_SESSIONS),) for event in islice(copies, of_all - of_views)
        }
        for number, chunk in enumerate(encoded_chunks(traces, list(islice(views, of_views)))):
            yield f"{portal}|{utk}|{number}".encode(), chunk


def _odd(rows: pl.DataFrame, rules: Rules, registry: Registry) -> Known:
    """Of any cookies, each as a live worker would do it that had all of its events in one batch."""
    found: list[tuple[object, ...]] = []
    items: Changes = {}
    for (portal, utk), events in _by_cookie(rows, registry):
        written = Visitor((portal, utk)).add(events, rules)
        found += ((portal, utk, *msgspec.structs.astuple(session)) for session in written.upserts)
        items |= {f"{portal}|{utk}|{number}".encode(): chunk for number, chunk in written.chunks.items() if chunk is not None}
        if written.forgotten is not None:
            items[f"{portal}|{utk}".encode()] = written.forgotten
    return Known(pl.DataFrame(found, SESSION_TYPES, orient="row"), items)


def _by_cookie(rows: pl.DataFrame, registry: Registry) -> Iterator[tuple[Cookie, list[Event]]]:
    keys = rows.select(COOKIE).rows()
    together = zip(keys, activity.events(rows, registry), strict=True)
    for (portal, utk), pairs in groupby(together, key=lambda pair: pair[0]):
        yield (PortalId(portal), Utk(utk)), [event for _, event in pairs]
