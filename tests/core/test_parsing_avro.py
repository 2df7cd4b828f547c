"""Records that came as Avro mean the same, and are refused for the same reasons, as lines (events.md)."""

import pytest

from pipeline.core.events import Event
from pipeline.core.outcomes import Reason
from pipeline.core.parsing import parse_avro
from tests.builders import as_decoded, email_click, form_submission, page_view
from tests.core.reading import BAD, WHY_BAD, of_each_type, reason


@of_each_type
def test_a_decoded_record_of_each_type_is_read(event: Event) -> None:
    assert parse_avro(event.type, as_decoded(event)) == event


def test_in_avro_absent_fields_may_be_none_missing_or_empty() -> None:
    decoded = as_decoded(page_view(1)) | {"title": "", "properties": "", "new_browser_session": None}
    del decoded["referrer"]
    assert parse_avro("page_view", decoded) == page_view(1)
    assert parse_avro("page_view", decoded | {"properties": " {} "}) == page_view(1)
    assert parse_avro("form_submission", as_decoded(form_submission(1)) | {"fields": []}) == form_submission(1)


def test_in_avro_properties_are_json_text_and_get_their_normal_form() -> None:
    decoded = as_decoded(page_view(1)) | {"properties": ' {"b": 1.0, "a": 1e2} '}
    assert parse_avro("page_view", decoded) == page_view(1, properties={"a": 100, "b": 1})


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[]",
        '"a"',
        "{",
        '{"a":NaN}',
        '{"a":18446744073709551616}',
        '{"a":' * 101 + "1" + "}" * 101,
        '{"a":"\\ud800"}',
        "\ud800",
        " ",
    ],
)
def test_in_avro_properties_that_are_no_json_object_are_refused(text: str) -> None:
    assert reason(parse_avro("page_view", as_decoded(page_view(1)) | {"properties": text})) is Reason.INVALID_FIELD


def test_in_avro_fields_keep_their_order_and_repeated_names() -> None:
    event = form_submission(1, fields=[("b", "1"), ("a", "2"), ("b", "")])
    assert parse_avro("form_submission", as_decoded(event)) == event


@pytest.mark.parametrize("fields", [["a"], [{"name": "a"}], [{"name": 1, "value": "b"}], "a", [None]])
def test_in_avro_fields_that_are_no_names_and_values_are_refused(fields: object) -> None:
    assert reason(parse_avro("form_submission", as_decoded(form_submission(1)) | {"fields": fields})) is Reason.INVALID_FIELD


def test_in_avro_extras_of_a_newer_schema_are_kept() -> None:
    assert parse_avro("page_view", as_decoded(page_view(1)) | {"scroll_depth": 80}) == page_view(1, properties={"scroll_depth": 80})
    assert reason(parse_avro("page_view", as_decoded(page_view(1)) | {"blob": b"\x00"})) is Reason.INVALID_FIELD


def test_avro_records_are_refused_for_the_same_reasons_in_the_same_order() -> None:
    bad = as_decoded(email_click(1)) | BAD
    reasons = []
    for name in BAD:
        reasons.append(reason(parse_avro("email_click", bad)))
        bad[name] = as_decoded(email_click(1))[name]
    assert reasons == WHY_BAD
    assert reason(parse_avro("pageview", bad)) is Reason.UNKNOWN_TYPE
    assert reason(parse_avro("email_click", bad | {"url": None})) is Reason.MISSING_FIELD
