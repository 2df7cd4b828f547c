"""One event id, one event: what a set of copies of an event says (spec: events.md, "One event id, one event").

Copies are compared without the fields in which a resend may differ. The distinct ones are put in order: most fields present,
then the smallest SHA-256 of the compared fields. The first is the base; each further copy that agrees with all that is
there adds its fields, any other conflicts. The times and network of the event are those of the earliest agreeing copy. So the event
is a function of the set of its copies, never of the order in which they came.

Two forms hold to this one rule: whole events (`merge`) and *traces* (`Trace`), which live state keeps for each copy. A trace
has the values that sessions or identity need and, of every other compared field, a digest: enough to tell agreement.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

import msgspec
import orjson

from pipeline.core.canonical import compared, compared_fields, compared_hash, whole_hash
from pipeline.core.events import NOT_COMPARED, Event, EventId, Millis

Token = str | bool | int
"""Something that is equal for equal values of a field: the value itself, or its digest (an integer of 64 bits)."""


class Merged(NamedTuple):
    """The event that a set of copies says, and its conflicting copies (one of each), smallest hash of the whole first."""

    event: Event
    conflicts: list[Event]


class Trace(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What live state keeps of one copy.

    `rank` is the first half of the SHA-256 of the compared fields; keys of `fields` are positions in FIELD_NAMES, so that a
    trace is small.
    """

    event_id: EventId
    occurred_at: Millis
    rank: bytes
    fields: dict[int, Token]

    def get(self, name: str) -> Any:
        """The value of a kept field, None if absent."""
        return self.fields.get(FIELD_CODES[name])


FIELD_NAMES = (
    "type", "utk", "url", "title", "referrer", "new_browser_session", "hstc", "hssc", "properties", "recipient_email", "send_id", "bot",
    "form_id", "email", "page_url", "fields", "create_new_contact", "use_cookie", "external_id", "name",
    "retracts", "primary", "secondary",
)  # fmt: skip
"""Compared fields beside event and portal id. Positions are stored in changelogs: only ever append."""
FIELD_CODES = {name: code for code, name in enumerate(FIELD_NAMES)}

KEPT_BY_SESSIONS = frozenset({"type", "utk", "url", "referrer", "new_browser_session", "bot", "retracts"})
KEPT_BY_IDENTITY = frozenset(
    {"type", "utk", "email", "recipient_email", "send_id", "external_id", "bot", "create_new_contact", "use_cookie",
     "retracts", "primary", "secondary"}
)  # fmt: skip


def trace(event: Event, kept: frozenset[str]) -> Trace:
    """The trace of one copy, with the fields `kept` as they are and the others as digests."""
    present, digest = compared(event)
    fields: dict[int, Token] = {}
    for name, value in present.items():
        code = FIELD_CODES.get(name)
        if code is not None:
            fields[code] = value if name in kept else _digest(value)
    return Trace(event.event_id, event.occurred_at, digest[:16], fields)


def merge(copies: Sequence[Event]) -> Merged:
    """The event that the copies (at least one, all of one portal and event id) say together, and the copies that conflict."""
    distinct: dict[bytes, Event] = {}
    for copy in copies:
        rank = compared_hash(copy)
        other = distinct.get(rank)
        distinct[rank] = copy if other is None else min(copy, other, key=_stamp)
    _, agreeing, conflicting = _agree({rank: compared_fields(copy) for rank, copy in distinct.items()})
    parts = [distinct[rank] for rank in agreeing]
    earliest = min(parts, key=_stamp)
    values = {
        name: getattr(earliest, name) if name in NOT_COMPARED else _first_present(getattr(part, name) for part in parts)
        for name in earliest.__struct_fields__
    }
    conflicts = sorted((distinct[rank] for rank in conflicting), key=_stamp)
    return Merged(type(earliest)(**values), conflicts)


def merge_traces(copies: Sequence[Trace]) -> Trace:
    """`merge` for traces of one event: the trace of the merged event."""
    if len(copies) == 1:
        return copies[0]
    distinct = {copy.rank: copy for copy in copies}
    fields, agreeing, _ = _agree({rank: copy.fields for rank, copy in distinct.items()})
    return Trace(copies[0].event_id, min(distinct[rank].occurred_at for rank in agreeing), agreeing[0], fields)


def add_trace(copies: tuple[Trace, ...], new: Trace) -> tuple[Trace, ...]:
    """The copies of an event with one more; of equal copies only the earliest stays. The same object if nothing changes."""
    for position, copy in enumerate(copies):
        if copy.rank == new.rank:
            if copy.occurred_at <= new.occurred_at:
                return copies
            return (*copies[:position], new, *copies[position + 1 :])
    return (*copies, new)


def _first_present(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


Key = TypeVar("Key", str, int)


def _agree(copies: Mapping[bytes, Mapping[Key, Any]]) -> tuple[dict[Key, Any], list[bytes], list[bytes]]:
    """The fields that the copies (by rank) say together; the ranks that agree, the base first; the ranks that conflict."""
    order = sorted(copies, key=lambda rank: (-len(copies[rank]), rank))
    agreeing: list[bytes] = []
    conflicting: list[bytes] = []

    def add(there: dict[Key, Any], rank: bytes) -> dict[Key, Any]:
        fields = copies[rank]
        if all(there.get(name, value) == value for name, value in fields.items()):
            agreeing.append(rank)
            return {**there, **fields}
        conflicting.append(rank)
        return there

    return reduce(add, order, {}), agreeing, conflicting


def _stamp(copy: Event) -> tuple[int, bytes, str]:
    """What orders equal copies; the last part only decides what no hash sees, such as the order of names in `fields`."""
    return copy.occurred_at, whole_hash(copy), repr(copy)


def _digest(value: Any) -> int:
    text = value.encode() if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(blake2b(text, digest_size=8).digest())
