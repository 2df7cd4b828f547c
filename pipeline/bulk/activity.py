"""What sessions need of raw records, as rows: spilled to disk under the cookie that they concern, and read again with its neighbours.

Plain page views are in columns, as `sessionize` takes them; whatever it takes one by one stays the raw record that it is, in `value`.
"""

from collections.abc import Sequence

import polars as pl

from pipeline.adapters.avro import Registry
from pipeline.adapters.raw_batch import EventColumns
from pipeline.core.events import Event
from pipeline.history.arrivals import VIEW, Arrivals, cookie, plain_views

ROW = {**VIEW, "value": pl.Binary}
"""`value` is null for a plain page view; of all others the columns of VIEW are null, but for the cookie."""


def rows(batch: EventColumns, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> pl.DataFrame:
    """The rows of a decoded batch; `keys` and `values` are those of all records that it was decoded from."""
    views, places = plain_views(batch, keys)
    portals = batch.frame()["portal_id"]
    others = [
        (name, values[batch.rows[place]]) for place in places if (name := cookie(portals[place], keys[batch.rows[place]])) is not None
    ]
    raw = pl.DataFrame(others, {"cookie": pl.String, "value": pl.Binary}, orient="row")
    return pl.concat([views, raw], how="diagonal").select(*ROW)


def arrivals(frame: pl.DataFrame, registry: Registry) -> Arrivals:
    """Rows as they are folded in."""
    others = frame.filter(pl.col("value").is_not_null())
    events = _decoded(others["value"].to_list(), registry)
    return Arrivals(frame.filter(pl.col("value").is_null()).select(*VIEW), list(zip(others["cookie"].to_list(), events, strict=True)))


def _decoded(values: Sequence[bytes], registry: Registry) -> list[Event]:
    """Events of records that were read before: none is refused."""
    placed: dict[int, Event] = {}
    for batch in registry.decode_events(values).batches:
        placed.update(zip(batch.rows, batch.events(), strict=True))
    return [placed[at] for at in range(len(values))]
