"""What concerns cookies among the records of a batch: plain page views in columns, all else one by one.

A record's key says which cookie it concerns. On the raw topics that is the event's own; on `event-copies` it may be another: a copy
of an event that also exists with this cookie, without which nobody could tell whose event it is in the end; or a retraction that
decides about an event of this cookie. Records without a cookie have another kind of key.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import polars as pl

from pipeline.adapters.raw_batch import EventColumns
from pipeline.core.events import Event, PageView
from pipeline.core.sessions import LONG_PROPERTIES
from pipeline.history.shapes import TEXTS

_KEY_BYTES = 32
VIEW = {"cookie": pl.String, "occurred_at": pl.Int64, "event_id": pl.String, "new_browser_session": pl.Boolean} | dict.fromkeys(
    TEXTS, pl.String
)
_AS_THEY_ARE = tuple(name for name in VIEW if name != "cookie")
_NO_VIEWS = pl.DataFrame(schema=VIEW)


class Arrivals(NamedTuple):
    """Events and their cookies, in no particular order. A cookie is a text, `portal|utk`."""

    views: pl.DataFrame
    """Columns VIEW: page views under their own cookie's key, with few properties."""
    others: list[tuple[str, Event]]


def plain_views(batch: EventColumns, keys: Sequence[bytes | None]) -> tuple[pl.DataFrame, list[int]]:
    """Page views that can be taken in columns (VIEW), and the places in the batch of all other events."""
    if batch.type != PageView.type or batch.table is None:
        return _NO_VIEWS, list(range(len(batch.rows)))
    is_own = (batch.cookies() == pl.Series([keys[row] for row in batch.rows], dtype=pl.Binary)).fill_null(value=False)
    is_short = (batch.table["properties"].str.len_chars() <= LONG_PROPERTIES).fill_null(value=True)
    is_plain = is_own & is_short
    views = batch.table.filter(is_plain).select(pl.format("{}|{}", "portal_id", "utk").alias("cookie"), *_AS_THEY_ARE)
    return views, (~is_plain).arg_true().to_list()


def arrivals(batch: EventColumns, keys: Sequence[bytes | None]) -> Arrivals:
    """Of a decoded batch; `keys` are those of all records that it was decoded from."""
    views, places = plain_views(batch, keys)
    events = batch.events() if len(places) == len(batch.rows) else [batch.event(place) for place in places]
    names = (cookie(event.portal_id, keys[batch.rows[place]]) for place, event in zip(places, events, strict=True))
    return Arrivals(views, [(name, event) for name, event in zip(names, events, strict=True) if name is not None])


def cookie(portal: int, key: bytes | None) -> str | None:
    """The cookie that an event of the portal concerns under this key; None if it is not a cookie's."""
    return f"{portal}|{key.decode('ascii', 'replace')}" if key is not None and len(key) == _KEY_BYTES else None


def together(several: Iterable[Arrivals]) -> Arrivals:
    views: list[pl.DataFrame] = []
    others: list[tuple[str, Event]] = []
    for arrived in several:
        if arrived.views.height:
            views.append(arrived.views)
        others += arrived.others
    return Arrivals(pl.concat(views) if len(views) > 1 else views[0] if views else _NO_VIEWS, others)
