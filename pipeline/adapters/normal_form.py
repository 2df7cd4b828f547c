"""Which decoded records are in normal form already, asked for whole columns at once (spec: events.md, "Normalisation").

Producers of ours write normalised events, so nearly every record is; then it is an event as it stands, and
`parsing.parse_avro` would return exactly its values. The checks here are narrower than the spec: a record that fails
one (an address with an umlaut) is not wrong, it only takes the way through `parse_avro`.
"""

from collections.abc import Callable, Iterable

import orjson
import polars as pl

from pipeline.core import normalise
from pipeline.core.canonical import normal_text
from pipeline.core.shapes import FIELDS, ONE_OF, PROPERTIES, SHAPES, Rule

_UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_UTK = "^[0-9a-f]{32}$"
_URL = r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,4})?([/?#][!-~]*)?$"
_EMAIL = r"^[a-z0-9._%+-]+@[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)+$"
_EMAIL_BYTES = 63
"""Shorter than any part of a domain may be, so none is too long."""
_JSON_BOUNDS = r"[0-9]{19}|([\[{][^\[{]*){50}"
"""Integers that may be beyond 64 bits, and nesting that may be beyond 100: left to the parser."""

_CHECKS: dict[Callable[[object], object], Callable[[pl.Expr], pl.Expr]] = {
    normalise.event_id: lambda column: column.str.contains(_UUID),
    normalise.portal: lambda column: column >= 1,
    normalise.timestamp: lambda column: column.is_between(normalise.EARLIEST, normalise.LATEST, closed="left"),
    normalise.utk: lambda column: column.str.contains(_UTK),
    normalise.email: lambda column: column.str.contains(_EMAIL) & (column.str.len_bytes() <= _EMAIL_BYTES),
    normalise.url: lambda column: column.str.contains(_URL) & (column.str.len_bytes() <= normalise.MAX_URL_BYTES),
    normalise.text: lambda column: column != "",
}


def in_normal_form(type_name: str, frame: pl.DataFrame) -> pl.Series:
    """For each record whether it is an event of this type as it stands. Columns: those of `SHAPES[type_name]`, absent as null."""
    checks = [_check(pl.col(name), rule) for name, rule in SHAPES[type_name].items() if _matters(rule, frame[name])]
    if type_name in ONE_OF:
        checks.append(pl.any_horizontal(pl.col(ONE_OF[type_name]).is_not_null()))
    normal = frame.select(pl.all_horizontal(checks)).to_series()
    if "properties" in frame.columns and frame["properties"].null_count() < frame.height:
        texts = frame["properties"]
        good = set(_normal_objects(texts.filter(~texts.str.contains(_JSON_BOUNDS) & normal).unique().to_list()))
        normal &= pl.Series([text is None or text in good for text in texts.to_list()], dtype=pl.Boolean)
    return normal


def _matters(rule: Rule, column: pl.Series) -> bool:
    """Whether there is anything to check in a column: an optional field may be absent throughout, and pairs of texts are form fields."""
    return rule.required or rule.default is not None or (rule not in (PROPERTIES, FIELDS) and column.null_count() < len(column))


def _check(column: pl.Expr, rule: Rule) -> pl.Expr:
    if rule.default is not None:
        return column.is_not_null()
    return _CHECKS[rule.normalised](column).fill_null(not rule.required)


def _normal_objects(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        if type(value) is dict and value and normal_text(value) == text:
            yield text
