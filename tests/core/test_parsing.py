"""From records to events and refusals, a sentence of the spec each (events.md)."""

import itertools
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.events import TYPES, WITHOUT_COOKIE, Event, PageView
from pipeline.core.outcomes import Reason, Refused
from pipeline.core.parsing import parse_any_line, parse_avro, parse_line
from pipeline.core.plain_lines import plain_event
from pipeline.core.shapes import SHAPES
from tests.builders import (
    START,
    as_decoded,
    contact_import,
    contact_merge,
    custom_event,
    email_click,
    form_submission,
    identify,
    line,
    page_view,
    retraction,
)
from tests.strategies import json_objects, json_values, valid_events, wrong_lines

ONE_OF_EACH: list[Event] = [
    page_view(1),
    email_click(2),
    form_submission(3),
    identify(4, email="a@x.io"),
    custom_event(5),
    contact_import(6),
    retraction(7),
    contact_merge(8),
]
of_each_type = pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: event.type)

BAD: dict[str, Any] = {
    "event_id": "no-uuid",
    "portal_id": 0,
    "occurred_at": "yesterday",
    "utk": "no-hex",
    "recipient_email": "nobody",
    "url": "/relative",
    "send_id": 1,
}
"""A wrong value for fields of an email click, in the order of the reasons."""


def parsed(event: Event, **changes: Any) -> Event:
    """The event of the changed line, which must have one."""
    outcome = parse_line(line(event, **changes))
    assert isinstance(outcome, Event), outcome
    return outcome


def reason(outcome: Event | Refused) -> Reason | None:
    return outcome.reason if isinstance(outcome, Refused) else None


def refused(event: Event, **changes: Any) -> Reason | None:
    return reason(parse_line(line(event, **changes)))


# Fields


@of_each_type
def test_an_event_of_each_type_is_read(event: Event) -> None:
    assert parse_line(line(event)) == event


def test_every_field_of_every_class_is_in_the_table() -> None:
    assert SHAPES.keys() == TYPES.keys()
    for name, kind in TYPES.items():
        assert set(kind.__struct_fields__) - set(SHAPES[name]) == ({"utk"} if kind in WITHOUT_COOKIE else set())


@pytest.mark.parametrize(
    ("type_name", "required"),
    [
        ("page_view", {"event_id", "portal_id", "occurred_at", "url"}),
        ("email_click", {"event_id", "portal_id", "occurred_at", "recipient_email", "send_id", "url"}),
        ("form_submission", {"event_id", "portal_id", "occurred_at", "form_id"}),
        ("identify", {"event_id", "portal_id", "occurred_at", "utk", "email"}),
        ("custom_event", {"event_id", "portal_id", "occurred_at", "name"}),
        ("contact_import", {"event_id", "portal_id", "occurred_at", "email"}),
        ("retraction", {"event_id", "portal_id", "occurred_at", "retracts"}),
        ("contact_merge", {"event_id", "portal_id", "occurred_at", "primary", "secondary"}),
    ],
)
def test_exactly_the_required_fields_are_required(type_name: str, required: set[str]) -> None:
    event = next(event for event in ONE_OF_EACH if event.type == type_name)
    missing = {name for name in SHAPES[type_name] if refused(event, **{name: ...}) is Reason.MISSING_FIELD}
    assert missing == required


def test_identify_needs_an_email_or_an_external_id() -> None:
    assert parsed(identify(1, external_id="crm-1")) == identify(1, external_id="crm-1")
    assert parsed(identify(1, email="a@x.io", external_id="crm-1")) == identify(1, email="a@x.io", external_id="crm-1")
    assert refused(identify(1, email="a@x.io"), email=...) is Reason.MISSING_FIELD
    assert refused(identify(1, email="a@x.io"), email="", external_id={}) is Reason.MISSING_FIELD


def test_a_page_view_may_have_no_utk() -> None:
    assert parsed(page_view(1), utk=...).utk is None


def test_switches_have_their_defaults() -> None:
    assert parsed(page_view(1), new_browser_session=...) == page_view(1, new_browser_session=False)
    assert parsed(email_click(1), bot=...) == email_click(1, bot=False)
    form = parsed(form_submission(1), create_new_contact=..., use_cookie=...)
    assert form == form_submission(1, create_new_contact=False, use_cookie=True)
    assert parsed(form_submission(1), use_cookie=False) == form_submission(1, use_cookie=False)


@pytest.mark.parametrize("absent", [None, "", {}], ids=["null", "empty string", "empty object"])
def test_null_and_the_empty_string_and_the_empty_object_are_absent_in_every_field(absent: object) -> None:
    for event in ONE_OF_EACH:
        for name in SHAPES[event.type]:
            assert parse_line(line(event, **{name: absent})) == parse_line(line(event, **{name: ...})), name
        assert refused(event, type=absent) is Reason.MISSING_FIELD
        assert parsed(event, extra=absent) == event


def test_absent_means_nothing_else() -> None:
    assert refused(page_view(1), title=[]) is Reason.INVALID_FIELD
    assert refused(page_view(1), title=0) is Reason.INVALID_FIELD
    assert refused(page_view(1), title=False) is Reason.INVALID_FIELD
    assert parsed(page_view(1), title=" ") == page_view(1, title=" ")


def test_nothing_is_absent_inside_properties_and_fields() -> None:
    event = parsed(page_view(1), properties={"a": None, "b": "", "c": {}})
    assert event == msgspec.structs.replace(page_view(1), properties='{"a":null,"b":"","c":{}}')
    assert parsed(form_submission(1), fields={"a": "", "b": None, "c": {}}) == form_submission(1, fields={"a": "", "b": "null", "c": "{}"})


def test_times_are_rfc_3339_or_milliseconds() -> None:
    assert parsed(page_view(1), occurred_at="2023-11-14T23:13:20.0009+01:00") == page_view(1, at=START)
    assert parsed(page_view(1), received_at="2023-11-14T22:13:20Z") == page_view(1, received_at=START)


def test_values_are_stored_in_normal_form() -> None:
    click = parsed(
        email_click(1),
        event_id="{00000000-0000-4000-8000-000000000001}",
        utk="00000000-0000-0000-0000-000000000061",
        recipient_email=" A@X.io ",
    )
    assert click == email_click(1)


# Extras


def test_extras_are_kept_in_properties_under_their_own_names() -> None:
    event = parsed(page_view(1, properties={"b": 1}), a=[1.0, {"z": None, "y": ""}], c=True)
    assert event == msgspec.structs.replace(page_view(1), properties='{"a":[1,{"y":"","z":null}],"b":1,"c":true}')


def test_a_name_in_properties_wins_over_an_extra() -> None:
    assert parsed(page_view(1, properties={"a": 1}), a=2) == page_view(1, properties={"a": 1})
    assert parsed(page_view(1), properties={"a": None}, a=2) == page_view(1, properties={"a": None})


def test_extras_of_a_form_are_kept_in_its_fields_as_text() -> None:
    event = parsed(form_submission(1, fields={"b": "1"}), a=[1.0, None], c="text", d=True, b="2")
    assert event == form_submission(1, fields={"b": "1", "a": "[1,null]", "c": "text", "d": "true"})


def test_a_field_of_another_type_is_an_extra() -> None:
    assert parsed(page_view(1), email="Not an EMAIL", bot=1) == page_view(1, properties={"email": "Not an EMAIL", "bot": 1})
    assert parsed(page_view(1), fields={"a": 1}) == page_view(1, properties={"fields": {"a": 1}})
    assert parsed(form_submission(1), properties={"b": 1.0, "a": 2}) == form_submission(1, fields={"properties": '{"a":2,"b":1}'})


def test_a_utk_is_an_extra_of_a_contact_import() -> None:
    event = parsed(contact_import(1), utk="no-hex")
    assert event == contact_import(1, properties={"utk": "no-hex"})
    assert event.utk is None


def test_a_value_in_fields_that_is_no_string_becomes_its_json_text() -> None:
    given = {"a": 1.0, "b": None, "c": [True, 1e-7], "d": {"y": 1, "x": "\u00e9"}, "e": "1.0"}
    assert parsed(form_submission(1), fields=given) == form_submission(
        1, fields={"a": "1", "b": "null", "c": "[true,1e-7]", "d": '{"x":"\u00e9","y":1}', "e": "1.0"}
    )


@pytest.mark.parametrize("value", ["/relative", "ftp://x", 7, True, [], ["https://x.io/"], {"a": 1}, "https://x.io/a b"])
def test_a_referrer_or_page_url_that_is_no_url_is_absent(value: object) -> None:
    assert parsed(page_view(1), referrer=value) == page_view(1, referrer=None)
    assert parsed(form_submission(1), page_url=value) == form_submission(1, page_url=None)


def test_a_referrer_that_is_a_url_is_kept_as_given() -> None:
    assert parsed(page_view(1), referrer="HTTPS://X.io?") == page_view(1, referrer="HTTPS://X.io?")


# Refused records


def test_reasons_are_tried_in_their_order() -> None:
    """With several things wrong the first reason counts; mending one thing leads to the next."""
    reasons = []
    for mended in range(len(BAD) + 1):
        outcome = parse_line(line(email_click(1), **dict(itertools.islice(BAD.items(), mended, None))))
        reasons.append(reason(outcome))
    assert reasons == [
        "invalid_event_id",
        "invalid_portal",
        "invalid_timestamp",
        "invalid_utk",
        "invalid_email",
        "invalid_url",
        "invalid_field",
        None,
    ]


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


# JSON


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" ", id="blank"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b'{"a":1}{"a":1}', id="two objects"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"page_view"', id="string"),
        pytest.param(b"{'type':'page_view'}", id="other quotes"),
        pytest.param(b'{"a":1,}', id="trailing comma"),
        pytest.param(b'{"a":01}', id="leading zero"),
        pytest.param(b'{"a":"\t"}', id="control character in a string"),
        pytest.param(b'{"a":"\xff"}', id="not UTF-8"),
        pytest.param(b'{"a":"\xed\xa0\x80"}', id="surrogate in UTF-8"),
        pytest.param(b'{"a":"\xc0\x80"}', id="overlong UTF-8"),
        pytest.param(b'\xef\xbb\xbf{"a":1}', id="byte order mark"),
        pytest.param('{"a":1}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"a":"\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"a":"\\udc00\\ud800"}', id="surrogates in the wrong order"),
        pytest.param(b'{"\\ud800":1}', id="lone surrogate in a name"),
        pytest.param(b'{"a":NaN}', id="NaN"),
        pytest.param(b'{"a":Infinity}', id="Infinity"),
        pytest.param(b'{"a":-Infinity}', id="-Infinity"),
        pytest.param(b'{"a":1e309}', id="beyond a double"),
        pytest.param(b'{"a":-1e309}', id="below a double"),
        pytest.param(b'{"a":18446744073709551616}', id="2^64"),
        pytest.param(b'{"a":-9223372036854775809}', id="-2^63 - 1"),
        pytest.param(b'{"a":1' + b"0" * 5000 + b"}", id="5001 digits"),
        pytest.param(b'{"a":1' + b"0" * 5000 + b".5}", id="5001 digits and a fraction"),
        pytest.param(b'{"a":[{"b":[18446744073709551616]}]}', id="2^64 deep inside"),
        pytest.param(b'{"a":18446744073709551616,"a":1}', id="2^64 overwritten"),
        pytest.param(b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", id="101 levels"),
        pytest.param(b'{"a":' * 101 + b"1" + b"}" * 101, id="101 objects"),
        pytest.param(b'{"a":' + b"[" * 100 + b"]" * 100 + b',"a":1}', id="101 levels overwritten"),
        pytest.param(b'{"a":' + b"[" * 499_990, id="half a million open brackets"),
        pytest.param(b'{"a":' + b"[" * 499_990 + b"]" * 499_990 + b"}", id="half a million levels"),
        pytest.param(b'{"x":' * 190_000, id="many open objects"),
    ],
)
def test_malformed_json_is_refused(text: bytes) -> None:
    assert reason(parse_line(text)) is Reason.MALFORMED_JSON


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param("18446744073709551615", "18446744073709551615", id="2^64 - 1"),
        pytest.param("-9223372036854775808", "-9223372036854775808", id="-2^63"),
        pytest.param("9007199254740993", "9007199254740993", id="2^53 + 1"),
        pytest.param("1e30", "1e+30", id="a double is no integer"),
        pytest.param("18446744073709551616.0", "1.8446744073709552e+19", id="nor is this"),
        pytest.param("1.12345678901234567890123", "1.1234567890123457", id="nor the digits of a fraction"),
        pytest.param("0e99999999999999999999999", "0", id="nor those of an exponent"),
        pytest.param("1e-999", "0", id="too small for a double"),
        pytest.param('"12345678901234567890123"', '"12345678901234567890123"', id="nor digits in a string"),
        pytest.param('"\\"12345678901234567890123\\n"', '"\\"12345678901234567890123\\n"', id="nor between escapes"),
        pytest.param('"' + "[" * 200 + '"', '"' + "[" * 200 + '"', id="brackets in a string are no nesting"),
        pytest.param("[" * 98 + "]" * 98, "[" * 98 + "]" * 98, id="100 levels"),
        pytest.param("[" + "[],{}," * 200 + "1]", "[" + "[],{}," * 200 + "1]", id="many brackets on few levels"),
        pytest.param('"\\ud83d\\ude00"', '"\U0001f600"', id="a pair of surrogates"),
    ],
)
def test_unusual_json_is_kept(text: str, kept: str) -> None:
    given = line(page_view(1), properties={"a": 0}).replace(b'{"a":0}', b'{"a":' + text.encode() + b"}")
    event = msgspec.structs.replace(page_view(1), properties='{"a":' + kept + "}")
    assert parse_line(given) == event
    assert parse_any_line(given) == event


def test_of_a_name_that_stands_twice_the_last_value_counts() -> None:
    twice = line(page_view(1), portal_id=...)[:-1] + b',"portal_id":0,"portal_id":1}'
    assert parse_line(twice) == page_view(1)


def test_spaces_between_the_parts_of_json_do_not_matter() -> None:
    event = page_view(1, properties={"a": [1]})
    assert parse_line(b" " + orjson.dumps(orjson.loads(line(event)), option=orjson.OPT_INDENT_2) + b"\r\n\t") == event


# Size


def filled(event: Event, size: int, **changes: Any) -> bytes:
    """The line of a page view with a title that makes it this long."""
    shorter = line(event, title="", **changes)
    return line(event, title="a" * (size - len(shorter)), **changes)


def test_a_line_of_a_million_bytes_is_read_and_a_longer_one_is_not() -> None:
    assert len(filled(page_view(1), 1_000_000)) == 1_000_000
    assert isinstance(parse_line(filled(page_view(1), 1_000_000)), PageView)
    assert reason(parse_line(filled(page_view(1), 1_000_001))) is Reason.TOO_LARGE


def test_size_counts_before_anything_else() -> None:
    assert reason(parse_line(b"\xff" * 1_000_001)) is Reason.TOO_LARGE
    assert reason(parse_line(b"\xff" * 1_000_000)) is Reason.MALFORMED_JSON


def test_an_event_whose_normal_form_is_over_a_million_bytes_is_too_large() -> None:
    """1e18 has four characters in a line and nineteen in `properties`."""
    few = b",".join([b"1e18"] * 49_000)
    many = b",".join([b"1e18"] * 51_000)
    for event, name in ((page_view(1), b"properties"), (form_submission(1), b"fields")):
        start = line(event)[:-1] + b',"' + name + b'":{"a":['
        assert isinstance(parse_line(start + few + b"]}}"), Event)
        assert reason(parse_line(start + many + b"]}}")) is Reason.TOO_LARGE


# Avro


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
    assert reasons == [
        "invalid_event_id",
        "invalid_portal",
        "invalid_timestamp",
        "invalid_utk",
        "invalid_email",
        "invalid_url",
        "invalid_field",
    ]
    assert reason(parse_avro("pageview", bad)) is Reason.UNKNOWN_TYPE
    assert reason(parse_avro("email_click", bad | {"url": None})) is Reason.MISSING_FIELD


# Properties of all input


@given(valid_events)
def test_encoding_an_event_as_a_line_and_reading_it_is_the_identity(event: Event) -> None:
    assert parse_line(line(event)) == event
    assert parse_any_line(line(event)) == event


@given(valid_events)
def test_reading_an_event_as_a_decoded_record_is_the_identity(event: Event) -> None:
    assert parse_avro(event.type, as_decoded(event)) == event


@given(wrong_lines() | st.binary(max_size=60) | json_values.map(orjson.dumps))
@example(line(contact_import(1), utk="a"))
@example(b'{"x":' + b"[" * 3_000)
def test_no_line_raises_and_what_becomes_an_event_stays_that_event(text: bytes) -> None:
    outcome = parse_line(text)
    if isinstance(outcome, Event):
        assert parse_line(line(outcome)) == outcome
        assert parse_avro(outcome.type, as_decoded(outcome)) == outcome
    else:
        assert outcome.reason in set(Reason) - {Reason.CONFLICTING_DUPLICATE, Reason.MALFORMED_AVRO, Reason.UNKNOWN_SCHEMA}


@given(wrong_lines() | valid_events.map(line))
@example(line(page_view(1))[:-1] + b',"type":"custom_event"}')
@example(line(page_view(1))[:-1] + b',"portal_id":18446744073709551616,"portal_id":1}')
@example(line(page_view(1))[:-1] + b',"portal_id":1.0}')
@example(line(page_view(1))[:-1] + b',"referrer":"","title":"","utk":""}')
@example(line(page_view(1))[:-1] + b',"url":""}')
@example(line(page_view(1))[:-1] + b',"properties":{"a":18446744073709551616},"properties":{"a":1.0}}')
@example(b'{"title":' + b"[" * 3_000)
def test_the_fast_way_agrees_with_the_general_one(text: bytes) -> None:
    event = plain_event(text)
    assert event is None or event == parse_any_line(text)


def test_usual_lines_take_the_fast_way() -> None:
    usual = page_view(1, title="Shoes", referrer="https://x.io/", properties={"lang": "en", "width": 1280, "touch": False})
    assert plain_event(line(usual, occurred_at="2023-11-14T22:13:20Z", user_agent="", ip=None)) == usual
    assert plain_event(line(email_click(1))) == email_click(1)
    assert plain_event(line(custom_event(1))) == custom_event(1)


@given(st.sampled_from([*TYPES, "other"]), json_objects)
def test_no_decoded_record_raises(type_name: str, raw: dict[str, Any]) -> None:
    assert isinstance(parse_avro(type_name, raw), Refused)


@given(st.sampled_from(ONE_OF_EACH), json_objects)
def test_no_decoded_record_with_surprises_raises(event: Event, surprises: dict[str, Any]) -> None:
    assert isinstance(parse_avro(event.type, as_decoded(event) | surprises), Event | Refused)
