"""What the fields of a record become, and what becomes of fields that the type does not have (events.md)."""

import msgspec
import pytest

from pipeline.core.events import TYPES, WITHOUT_COOKIE, Event
from pipeline.core.outcomes import Reason
from pipeline.core.parsing import parse_line
from pipeline.core.shapes import SHAPES
from tests.builders import START, contact_import, email_click, form_submission, identify, line, page_view
from tests.core.reading import ONE_OF_EACH, of_each_type, parsed, refused


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
