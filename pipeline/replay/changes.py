"""What differs between two states of what readers see: contacts, links, sessions, and whose events are.

The rows have the fields of `resolve` (times in epoch milliseconds). They are told apart by `key` and differ if `compared` does; changes
are counted by rule, before and after, with a few examples each.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pipeline.resolve import Resolution

EXAMPLES = 3
TIMES = frozenset({"created_at", "valid_from", "valid_to", "started_at", "ended_at", "previous_started_at", "occurred_at"})

Row = Mapping[str, Any]


class Kind(msgspec.Struct, frozen=True):
    """`name` as `resolve` calls it, the view, what tells rows apart, what counts as a change, and what is shown besides."""

    name: str
    view: str
    key: tuple[str, ...]
    compared: tuple[str, ...]
    shown: tuple[str, ...] = ()
    has_rule: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """Those of an example, apart from the key."""
        return (*self.compared, *(("rule",) if self.has_rule else ()), *self.shown)


KINDS = (
    Kind(
        "contacts",
        "contacts",
        ("portal_id", "contact_id"),
        ("email", "former_emails", "external_id", "created_at", "created_by", "merged_into"),
    ),
    Kind("links", "links", ("portal_id", "utk", "evidence"), ("contact_id", "status", "valid_from", "valid_to"), has_rule=True),
    Kind(
        "sessions",
        "sessions",
        ("portal_id", "utk", "session_id"),
        (
            "number",
            "started_at",
            "ended_at",
            "previous_started_at",
            "activity_count",
            "page_view_count",
            "entry_url",
            "exit_url",
            "source",
        ),
    ),
    Kind(
        "events",
        "event_owners",
        ("portal_id", "event_id"),
        ("contact_id", "temporary_contact_id"),
        ("type", "occurred_at", "utk", "evidence"),
        has_rule=True,
    ),
)


class Example(msgspec.Struct, frozen=True):
    """One row that is new (no `before`), gone (no `after`) or changed."""

    key: Row
    before: Row | None
    after: Row | None


class Group(msgspec.Struct, frozen=True):
    """Changes of one sort."""

    what: str
    """new, gone or changed."""
    rule_before: str | None
    rule_after: str | None
    count: int
    examples: Sequence[Example]


Changes = dict[str, list[Group]]
"""By kind."""


def between(before: Resolution, after: Resolution) -> Changes:
    """The changes from one resolution to another."""
    return {kind.name: _between(kind, getattr(before, kind.name), getattr(after, kind.name)) for kind in KINDS}


def _between(kind: Kind, before: Sequence[msgspec.Struct], after: Sequence[msgspec.Struct]) -> list[Group]:
    rows = [{tuple(getattr(row, name) for name in kind.key): row for row in side} for side in (before, after)]
    found: dict[tuple[str, str | None, str | None], list[Example]] = {}
    for key in sorted(rows[0].keys() | rows[1].keys(), key=str):
        was, is_ = (_fields(kind, side.get(key)) for side in rows)
        if was is None or is_ is None or any(was[name] != is_[name] for name in kind.compared):
            what = "new" if was is None else "gone" if is_ is None else "changed"
            example = Example(dict(zip(kind.key, key, strict=True)), was, is_)
            found.setdefault((what, _rule(was), _rule(is_)), []).append(example)
    return [Group(*sort, len(examples), examples[:EXAMPLES]) for sort, examples in sorted(found.items(), key=str)]


def _fields(kind: Kind, row: msgspec.Struct | None) -> Row | None:
    return None if row is None else {name: getattr(row, name) for name in kind.fields}


def _rule(row: Row | None) -> str | None:
    return row.get("rule") if row else None
