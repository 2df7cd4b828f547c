"""Traces: what live state keeps of a copy must tell agreement of every compared field."""

from pipeline.core.copies import FIELD_NAMES, KEPT_BY_IDENTITY, KEPT_BY_SESSIONS
from pipeline.core.events import NOT_COMPARED, TYPES

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
