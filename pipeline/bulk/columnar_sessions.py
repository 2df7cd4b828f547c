"""Sessions of many cookies at once, in columns: `core.sessions.fold` for the usual policy, hundreds of times as fast.

The core is the definition, and a property test holds this equal to it. It is not in the core because it is no second definition, and
because the core imports nothing but the standard library and codecs (a test checks that).

Activity comes as rows in the order (portal_id, utk, occurred_at, event_id), each event once; `url` is that of a page view, else null.
"""

from collections.abc import Callable

import polars as pl

from pipeline.core.sessions import Retention, campaign, traffic_source

COOKIE = ("portal_id", "utk")
ORDER = (*COOKIE, "occurred_at", "event_id")
SESSION = (
    *COOKIE, "number", "started_at", "first_event_id", "ended_at", "last_event_id", "previous_started_at", "activity_count",
    "page_view_count", "entry_url", "exit_url", "source",
)  # fmt: skip
"""Columns of the result: a cookie, and the fields of `core.sessions.Session` in their order."""

_HOST = r"^https?://([a-z0-9.-]+)(?::[0-9]*)?(?:[/?#]|$)"
"""As in the core: what is not so plain is asked of `traffic_source`."""
_QUERY = r"^[^?#]*\?([^#]*)"


def sessions(activity: pl.DataFrame, gap: int) -> pl.DataFrame:
    """The sessions of sorted activity (`with_source`), in the order of cookies and time; `gap` in milliseconds.

    Sources never split a session here.
    """
    at = pl.col("occurred_at")
    is_first = (pl.col("portal_id") != pl.col("portal_id").shift()) | (pl.col("utk") != pl.col("utk").shift())
    starts = is_first.fill_null(value=True) | (at - at.shift() > gap) | pl.col("new_browser_session").fill_null(value=False)
    placed = activity.with_columns(starts.cum_sum().alias("session"))
    view = pl.col("url").drop_nulls()
    found = placed.group_by("session", maintain_order=True).agg(
        pl.col(COOKIE).first(),
        at.first().alias("started_at"),
        pl.col("event_id").first().alias("first_event_id"),
        at.last().alias("ended_at"),
        pl.col("event_id").last().alias("last_event_id"),
        pl.len().cast(pl.Int64).alias("activity_count"),
        view.len().cast(pl.Int64).alias("page_view_count"),
        view.first().alias("entry_url"),
        view.last().alias("exit_url"),
        pl.col("source").drop_nulls().first(),
    )
    number = pl.int_range(1, pl.len() + 1).over(COOKIE).alias("number")
    return found.with_columns(number, pl.col("started_at").shift().over(COOKIE).alias("previous_started_at")).select(SESSION)


def forgotten(activity: pl.DataFrame, retention: Retention) -> pl.DataFrame:
    """Up to which event (`cut_at`, `cut_id`) live state forgets each cookie; one row for each that forgets anything.

    As `core.sessions.advance` forgets when all of the activity comes in one batch.
    """
    at = pl.col("occurred_at")
    ends = activity.group_by(COOKIE, maintain_order=True).agg(
        at.min().alias("oldest"),
        at.max().alias("latest"),
        pl.len().cast(pl.Int64).alias("events"),
        (at < at.max() - retention.period).sum().cast(pl.Int64).alias("old"),
    )
    is_exceeded = (pl.col("latest") - pl.col("oldest") > retention.period * 5 // 4) | (pl.col("events") > retention.max_events * 5 // 4)
    beyond = pl.max_horizontal(pl.col("old"), pl.col("events") - retention.max_events)
    last = ends.filter(is_exceeded & (beyond > 0)).select(*COOKIE, (beyond - 1).alias("place"))
    places = activity.select(*ORDER, pl.int_range(pl.len()).over(COOKIE).alias("place"))
    cut = places.join(last, on=[*COOKIE, "place"], how="inner", maintain_order="left")
    return cut.select(*COOKIE, at.alias("cut_at"), pl.col("event_id").alias("cut_id"))


def is_forgotten() -> pl.Expr:
    """Of rows that have been joined with `forgotten`: whether an event is at or before the cut; false where there is none."""
    at, event_id = pl.col("occurred_at"), pl.col("event_id")
    before = (at < pl.col("cut_at")) | ((at == pl.col("cut_at")) & (event_id <= pl.col("cut_id")))
    return before.fill_null(value=False)


def with_source(activity: pl.DataFrame) -> pl.DataFrame:
    """With the traffic source of each page view, null if unknown. The core is asked once for each query, and each odd pair of addresses."""
    query = pl.col("url").str.extract(_QUERY)
    site, origin = pl.col("url").str.extract(_HOST), pl.col("referrer").str.extract(_HOST)
    is_odd = pl.col("url").is_not_null() & pl.col("referrer").is_not_null() & (site.is_null() | origin.is_null())
    advertised = _asked(activity.select(query.alias("query")), campaign)
    odd = _asked(activity.select(pl.when(is_odd).then(pl.col(name)).alias(name) for name in ("url", "referrer")), traffic_source)
    elsewhere = pl.when(site != origin).then(origin)
    return activity.with_columns(pl.coalesce(advertised, odd, elsewhere).alias("source"))


def _asked(given: pl.DataFrame, function: Callable[..., str | None]) -> pl.Series:
    """The function's answer for each row, called once for equal rows; null for one that begins with null."""
    first = given.columns[0]
    rows = given.filter(pl.col(first).is_not_null()).unique()
    answers = rows.with_columns(pl.Series("answer", [function(*row) for row in rows.iter_rows()], pl.String))
    return given.join(answers, on=given.columns, how="left", maintain_order="left")["answer"]
