"""What sessions need of raw records, as rows: a record under a cookie's key, spilled to disk and read again with its neighbours.

A page view of the key's own cookie is kept in columns, as live state keeps it (`core.sessions.keep`); whatever live state keeps as
traces stays the raw record that it is, in `value`. Records without a cookie's key concern no session (as in `agents/sessionize.py`).
"""

from collections.abc import Sequence

import polars as pl

from pipeline.adapters.avro import Registry
from pipeline.adapters.raw_batch import EventColumns
from pipeline.core.events import CustomEvent, Event, FormSubmission, Identify, PageView
from pipeline.core.sessions import LONG_PROPERTIES

VIEW = {
    "url": pl.String, "referrer": pl.String, "new_browser_session": pl.Boolean, "title": pl.String, "hstc": pl.String,
    "hssc": pl.String, "properties": pl.String,
}  # fmt: skip
ROW = {
    "portal_id": pl.Int64,
    "utk": pl.String,  # the key of the record
    "occurred_at": pl.Int64,
    "event_id": pl.String,
    "is_own": pl.Boolean,  # the key is the event's cookie
    "is_active": pl.Boolean,
    **VIEW,  # null for other types
    "value": pl.Binary,  # null for a page view that is kept in columns
}
_ALWAYS_ACTIVE = {PageView.type, FormSubmission.type, Identify.type, CustomEvent.type}
_KEY_BYTES = 32


def rows(batch: EventColumns, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> pl.DataFrame:
    """The rows of a decoded batch; `keys` and `values` are those of all records that it was decoded from."""
    is_view = batch.type == PageView.type
    own = [keys[at] for at in batch.rows]
    table = batch.frame()
    frame = table.select(
        pl.col("portal_id"),
        pl.Series(
            "utk", [key.decode("ascii", "replace") if key is not None and len(key) == _KEY_BYTES else None for key in own], pl.String
        ),
        pl.col("occurred_at"),
        pl.col("event_id"),
        (pl.col("utk") if "utk" in table.columns else pl.lit(None, pl.String)).alias("cookie"),
        _is_active(batch.type).alias("is_active"),
        *(pl.col(name) if is_view else pl.lit(None, kind).alias(name) for name, kind in VIEW.items()),
        pl.Series("value", [values[at] for at in batch.rows], pl.Binary),
    )
    is_own = (pl.col("cookie") == pl.col("utk")).fill_null(value=False)
    is_short = (pl.col("properties").str.len_chars() <= LONG_PROPERTIES).fill_null(value=True)
    kept = pl.when(is_own & is_short & is_view).then(None).otherwise(pl.col("value"))
    return frame.filter(pl.col("utk").is_not_null()).with_columns(is_own.alias("is_own"), kept.alias("value")).select(*ROW)


def _is_active(type_name: str) -> pl.Expr:
    """Spec: sessions.md, "Activity"."""
    if type_name in _ALWAYS_ACTIVE:
        return pl.lit(value=True)
    return ~pl.col("bot") if type_name == "email_click" else pl.lit(value=False)


def events(frame: pl.DataFrame, registry: Registry) -> list[Event]:
    """The events of rows, in their order; page views in columns without the fields that are not compared."""
    found: list[Event] = []
    raw = [value for value in frame["value"] if value is not None]
    decoded = iter(_decoded(raw, registry))
    columns = (
        "event_id",
        "portal_id",
        "occurred_at",
        "utk",
        "url",
        "title",
        "referrer",
        "new_browser_session",
        "hstc",
        "hssc",
        "properties",
    )
    for value, (id_, portal, at, utk, url, title, referrer, starts, hstc, hssc, properties) in zip(
        frame["value"], frame.select(columns).iter_rows(), strict=True
    ):
        if value is not None:
            found.append(next(decoded))
        else:
            found.append(PageView(id_, portal, at, None, utk, url, title, referrer, None, None, starts, hstc, hssc, properties))
    return found


def _decoded(values: Sequence[bytes], registry: Registry) -> list[Event]:
    """Events of records that were read before: none is refused."""
    placed: dict[int, Event] = {}
    for batch in registry.decode_events(values).batches:
        placed.update(zip(batch.rows, batch.events(), strict=True))
    return [placed[at] for at in range(len(values))]
