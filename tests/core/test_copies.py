"""What a set of copies says, and traces: what live state keeps of a copy must tell agreement of every compared field."""

from hashlib import sha256
from itertools import permutations

import msgspec
import pytest
import rfc8785

from pipeline.core.copies import FIELD_NAMES, KEPT_BY_IDENTITY, KEPT_BY_SESSIONS, merge, merge_traces, trace
from pipeline.core.events import NOT_COMPARED, TYPES, Event, PageView
from tests.builders import START, email_click, page_view

SAME_FOR_ALL_COPIES = {"event_id", "portal_id"}


def test_a_trace_has_a_place_for_every_compared_field() -> None:
    """A field without one would be overlooked: live results would differ from `resolve` where copies conflict in it."""
    compared = {"type"} | {name for kind in TYPES.values() for name in kind.__struct_fields__} - NOT_COMPARED - SAME_FOR_ALL_COPIES
    assert set(FIELD_NAMES) == compared
    assert set(FIELD_NAMES) >= KEPT_BY_SESSIONS | KEPT_BY_IDENTITY


def test_places_of_fields_never_change() -> None:
    """They are stored in changelogs."""
    assert FIELD_NAMES[:4] == ("type", "utk", "url", "title")
    assert FIELD_NAMES[16:20] == ("create_new_contact", "use_cookie", "external_id", "name")


# What a set of copies says (events.md, "One event id, one event")


def said(*copies: Event) -> tuple[Event, list[Event]]:
    """The event and the conflicting copies, the same for every order, and for the traces of the copies."""
    merged = merge(copies)
    assert all(merge(order) == merged for order in permutations(copies))
    kept = frozenset(FIELD_NAMES) - {"properties", "fields"}
    together = merge_traces([trace(copy, kept) for copy in copies])
    assert (together.occurred_at, together.fields) == (merged.event.occurred_at, trace(merged.event, kept).fields)
    return merged.event, merged.conflicts


def by_hash(*copies: Event) -> list[Event]:
    """The smallest SHA-256 of the compared fields first, computed by another library."""

    def digest(copy: Event) -> bytes:
        fields = msgspec.structs.asdict(copy) | {"type": copy.type}
        return sha256(
            rfc8785.dumps({name: value for name, value in fields.items() if value is not None and name not in NOT_COMPARED})
        ).digest()

    return sorted(copies, key=digest)


@pytest.mark.parametrize("title", list("abcdefgh"))
def test_the_copy_with_the_most_fields_is_the_base(title: str) -> None:
    """Whatever the hashes are: here they are of eight other titles."""
    fuller = page_view(1, title="Home", referrer="https://x.io/")
    poorer = page_view(1, title=title)
    assert said(poorer, fuller) == (fuller, [poorer])


@pytest.mark.parametrize("title", list("abcdefgh"))
def test_of_equally_full_copies_the_smallest_hash_is_the_base(title: str) -> None:
    copies = by_hash(page_view(1, title="Home"), page_view(1, title=title))
    assert said(*copies) == (copies[0], [copies[1]])


def test_fields_that_do_not_count_make_no_copy_fuller() -> None:
    """An address and a user agent do not: a resend may differ there."""
    copies = by_hash(page_view(1, title="Home"), page_view(1, title="Start"))
    other = msgspec.structs.replace(copies[1], ip="192.0.2.1", user_agent="Firefox")
    assert said(copies[0], other) == (copies[0], [other])


def test_an_agreeing_copy_adds_what_was_missing() -> None:
    """A click that was first seen without its cookie."""
    assert said(email_click(1, utk=None), email_click(1, utk="a"), email_click(1, utk=None)) == (email_click(1, utk="a"), [])


def test_what_a_copy_has_added_is_there_for_the_next() -> None:
    """Two copies that agree with the base and not with each other: the one with the smaller hash adds, the other conflicts."""
    base = page_view(1, title="Home", referrer="https://x.io/")
    one, other = by_hash(page_view(1, utk="a", hstc="1"), page_view(1, utk="a", hstc="2"))
    assert isinstance(one, PageView)
    added = msgspec.structs.replace(base, hstc=one.hstc)
    assert said(base, one, other) == (added, [other])


def test_times_and_network_are_those_of_the_earliest_agreeing_copy() -> None:
    """One that conflicts says nothing, and the others' addresses do not fill a gap."""
    full = page_view(1, at=START + 2, title="Home", referrer="https://x.io/")
    earliest = page_view(1, at=START + 1, title="Home")
    conflicting = page_view(1, at=START, title="Start")
    full = msgspec.structs.replace(full, ip="192.0.2.1", received_at=START + 9)
    expected = msgspec.structs.replace(full, occurred_at=START + 1, ip=None, received_at=None)
    assert said(full, earliest, conflicting) == (expected, [conflicting])
