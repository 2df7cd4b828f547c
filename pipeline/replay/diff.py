"""`replay diff`: what a switch would change for readers. ClickHouse compares the views of the two generations, row by row.

The two follow the same topics at their own pace; what one of them has not read yet is a difference, too, so who is behind is said with it.
"""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline import catching_up
from pipeline.adapters import clickhouse
from pipeline.replay import registry, views
from pipeline.replay.changes import EXAMPLES, KINDS, TIMES, Changes, Example, Group, Kind
from pipeline.settings import Settings

_SPILLING = {"max_bytes_before_external_group_by": 500_000_000, "max_threads": 2}
"""Millions of events are compared within a bounded memory."""


class Diff(msgspec.Struct, frozen=True):
    """From the generation that readers see to another. `behind`: in words, for those that have not caught up."""

    before: int
    after: int
    behind: dict[int, str]
    since: int | None
    """The other one knows only what was published from then on (epoch ms)."""
    changes: Changes


def diff(settings: Settings, number: int | None = None) -> Diff:
    """To generation `number`, or the newest other one. UserError if there is none, or it is not built yet."""
    generations = registry.read(settings)
    other = generations.other(number, "compared")
    pair = (generations.of(generations.live), other)
    late = {each.number: catching_up.wait(registry.settings_of(settings, each), 0) for each in pair}
    views.prepare(settings, [each.number for each in pair])
    databases = [clickhouse.identifier(views.database_of(settings, each.number)) for each in pair]
    changes = {kind.name: _groups(settings, kind, databases) for kind in KINDS}
    behind = {number: words for number, words in late.items() if words}
    return Diff(pair[0].number, other.number, behind, other.about.since, changes)


def _groups(settings: Settings, kind: Kind, databases: Sequence[str]) -> list[Group]:
    rows = clickhouse.server(settings).execute(_query(kind, databases), settings=_SPILLING)
    return [
        Group(what, before or None, after or None, count, [_example(kind, *told) for told in examples])
        for what, before, after, count, examples in rows
    ]


def _query(kind: Kind, databases: Sequence[str]) -> str:
    """Rows of both sides are brought together by their key; what only one has, or what differs, is counted."""
    key, fields, compared = (f"toJSONString(tuple({_list(names)}))" for names in (kind.key, kind.fields, kind.compared))
    rule = "toString(rule)" if kind.has_rule else "''"
    sides = " UNION ALL ".join(
        f"SELECT {side} AS side, {key} AS k, {fields} AS said, sipHash64({compared}) AS hash, {rule} AS r FROM {database}.{kind.view}"
        for side, database in enumerate(databases)
    )
    return f"""
        SELECT multiIf(NOT had, 'new', NOT has, 'gone', 'changed') AS what, before.2, after.2, count(),
            groupArraySorted({EXAMPLES})((k, before.1, after.1))
        FROM
        (
            SELECT k, countIf(side = 0) > 0 AS had, countIf(side = 1) > 0 AS has,
                anyIf((said, r, hash), side = 0) AS before, anyIf((said, r, hash), side = 1) AS after
            FROM ({sides})
            GROUP BY k
            HAVING had != has OR before.3 != after.3
        )
        GROUP BY what, before.2, after.2
        ORDER BY what, before.2, after.2
    """


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"toUnixTimestamp64Milli({name})" if name in TIMES else name for name in names)


def _example(kind: Kind, key: str, before: str, after: str) -> Example:
    return Example(_row(kind.key, key), _row(kind.fields, before) if before else None, _row(kind.fields, after) if after else None)


def _row(names: Sequence[str], text: str) -> dict[str, Any]:
    return dict(zip(names, json.loads(text), strict=True))
