"""Which records are refused, for which reason, and in what order the reasons are tried (events.md)."""

import itertools
from typing import Any

import pytest

from pipeline.core.events import Event
from pipeline.core.outcomes import Reason, Refused
from pipeline.core.parsing import parse_line
from tests.builders import START, contact_import, custom_event, email_click, form_submission, identify, line, page_view
from tests.core.reading import BAD, WHY_BAD, parsed, reason, refused


def test_reasons_are_tried_in_their_order() -> None:
    """With several things wrong the first reason counts; mending one thing leads to the next."""
    reasons = []
    for mended in range(len(BAD) + 1):
        outcome = parse_line(line(email_click(1), **dict(itertools.islice(BAD.items(), mended, None))))
        reasons.append(reason(outcome))
    assert reasons == [*WHY_BAD, None]


def test_either_time_is_tried_before_the_utk() -> None:
    assert refused(page_view(1), received_at="yesterday", utk="no-hex") is Reason.INVALID_TIMESTAMP


def test_a_missing_field_counts_before_any_wrong_one() -> None:
    assert refused(email_click(1), **(BAD | {"send_id": ...})) is Reason.MISSING_FIELD


def test_an_unknown_type_counts_before_a_missing_field() -> None:
    assert refused(page_view(1), type="pageview", url=...) is Reason.UNKNOWN_TYPE


@pytest.mark.parametrize("type_name", ["Page_view", " page_view", "event", 1, 0, True, False, [], ["page_view"], {"a": 1}])
def test_a_type_that_is_there_and_none_of_ours_is_unknown(type_name: object) -> None:
    assert refused(page_view(1), type=type_name) is Reason.UNKNOWN_TYPE


NO_TEXTS: list[Any] = [7, True, ["a"], {"a": 1}]

WRONG_IN_A_PAGE_VIEW: list[tuple[str, str, list[Any]]] = [
    ("event_id", "invalid_event_id", [7, [], True, "0123"]),
    ("portal_id", "invalid_portal", [0, -1, 7.0, 1e30, "7", True, 2**63]),
    ("occurred_at", "invalid_timestamp", [START // 1000, float(START), True, [START], str(START)]),
    ("received_at", "invalid_timestamp", [START // 1000, float(START), False, 0]),
    ("utk", "invalid_utk", [7, [], "0", False]),
    ("url", "invalid_url", [7, [], "/", {"a": 1}]),
    *((name, "invalid_field", NO_TEXTS) for name in ("title", "user_agent", "ip", "hstc", "hssc")),
    ("new_browser_session", "invalid_field", [0, 1, "true", []]),
    ("properties", "invalid_field", ["{}", '{"a":1}', [], 7, [["a", "b"]], False]),
]


@pytest.mark.parametrize(("name", "expected", "values"), WRONG_IN_A_PAGE_VIEW, ids=lambda given: given if isinstance(given, str) else "")
def test_wrong_values_in_a_page_view(name: str, expected: str, values: list[Any]) -> None:
    for wrong in values:
        assert refused(page_view(1), **{name: wrong}) == expected, wrong


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (email_click(1), "recipient_email"),
        (form_submission(1), "email"),
        (identify(1, external_id="x"), "email"),
        (contact_import(1), "email"),
    ],
    ids=lambda given: given if isinstance(given, str) else given.type,
)
def test_an_email_that_is_none_is_refused(event: Event, name: str) -> None:
    assert [refused(event, **{name: wrong}) for wrong in ("nobody", " ", 7, ["a@x.io"])] == [Reason.INVALID_EMAIL] * 4


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (email_click(1), "send_id"),
        (form_submission(1), "form_id"),
        (custom_event(1), "name"),
        (identify(1, email="a@x.io"), "external_id"),
        (contact_import(1), "external_id"),
    ],
    ids=lambda given: given if isinstance(given, str) else given.type,
)
def test_other_texts_must_be_strings(event: Event, name: str) -> None:
    assert [refused(event, **{name: wrong}) for wrong in (7, True, ["a"])] == [Reason.INVALID_FIELD] * 3


def test_other_switches_and_objects_are_checked_too() -> None:
    assert refused(email_click(1), bot=0) is Reason.INVALID_FIELD
    assert refused(form_submission(1), create_new_contact="yes") is Reason.INVALID_FIELD
    assert refused(form_submission(1), use_cookie=1) is Reason.INVALID_FIELD
    for wrong in ("a=b", [], [["a", "b"]], [{"name": "a", "value": "b"}], 7):
        assert refused(form_submission(1), fields=wrong) is Reason.INVALID_FIELD


def test_what_form_fields_contain_is_not_looked_at() -> None:
    assert parsed(form_submission(1), fields={"email": "Nobody"}) == form_submission(1, fields={"email": "Nobody"})


def test_a_detail_names_the_field_and_never_the_value() -> None:
    secret = "s3cret"
    for name in BAD:
        outcome = parse_line(line(email_click(1), **{name: secret if name != "send_id" else [secret]}))
        assert isinstance(outcome, Refused)
        assert outcome.detail.startswith(f"{name}: expected ")
        assert secret not in outcome.detail
    assert parse_line(line(email_click(1), url=..., send_id=None)) == Refused(Reason.MISSING_FIELD, "send_id, url: required in email_click")
    assert parse_line(line(identify(1, email="a@x.io"), email=...)) == Refused(
        Reason.MISSING_FIELD, "email or external_id: required in identify"
    )
