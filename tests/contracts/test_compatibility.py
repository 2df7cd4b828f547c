"""A newer version of a record reads everything that was ever written with an older one."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.adapters.contracts import SchemaVersion, load_schemas
from tests.contracts.compatibility import incompatibilities

PAGE_VIEW = load_schemas()["page_view"][0]


def second_version(*fields: dict[str, Any], without: str = "") -> SchemaVersion:
    """page_view.v2 with further fields, and without one."""
    kept = [field for field in PAGE_VIEW.json["fields"] if field["name"] != without]
    return replace(PAGE_VIEW, version=2, json={**PAGE_VIEW.json, "fields": [*kept, *fields]})


def test_all_versions_in_schemas_are_compatible() -> None:
    """Every version of every record in `schemas/` can be read by all later ones."""
    assert incompatibilities(load_schemas()) == []


def test_a_new_field_with_a_default_is_compatible() -> None:
    """A version that adds an optional field reads the older one."""
    added = {"name": "language", "type": ["null", "string"], "default": None, "doc": "Language of the page."}
    assert incompatibilities({"page_view": [PAGE_VIEW, second_version(added)]}) == []


@pytest.mark.parametrize(
    ("newer", "said"),
    [
        (second_version({"name": "language", "type": "string", "doc": "No default."}), "language"),
        (second_version({"name": "portal_id", "type": "string", "doc": "Was a number."}, without="portal_id"), "portal_id"),
        (second_version({"name": "title", "type": "string", "doc": "Was optional."}, without="title"), "title"),
    ],
    ids=["a required field is new", "a field has another type", "an optional field is required"],
)
def test_an_incompatible_version_is_refused_with_both_sides_named(newer: SchemaVersion, said: str) -> None:
    """What the newer version cannot read is said with the names of both versions and of the place."""
    (sentence,) = incompatibilities({"page_view": [PAGE_VIEW, newer]})
    assert sentence.startswith(f"page_view.v2 cannot read page_view.v1 (fields: {said}): ")


def test_versions_far_apart_are_compared_too() -> None:
    """The third version must read the first, not only the second."""
    optional = {"name": "language", "type": ["null", "string"], "default": None, "doc": "Language of the page."}
    required = {"name": "language", "type": ["null", "string"], "doc": "No default."}
    versions = [PAGE_VIEW, second_version(optional), replace(second_version(required), version=3)]
    assert [sentence.split(" (")[0] for sentence in incompatibilities({"page_view": versions})] == ["page_view.v3 cannot read page_view.v1"]
