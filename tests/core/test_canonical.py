"""Normal text and hashes: one text for one value, and RFC 8785 wherever a faster writer is used."""

import json
from hashlib import sha256
from typing import Any

import msgspec
import orjson
import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.canonical import compared_fields, compared_hash, normal_text, whole_hash
from pipeline.core.events import Event, FormSubmission
from tests.builders import as_object, contact_import, form_submission, identify, page_view
from tests.strategies import copy_of, json_objects, json_values, valid_events


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param({"b": 1, "a": 2}, '{"a":2,"b":1}', id="names are sorted"),
        pytest.param({"\ue000": 1, "\U0001f600": 2}, '{"\U0001f600":2,"\ue000":1}', id="by UTF-16, not by code point"),
        pytest.param({"a": {"c": [], "b": {}}}, '{"a":{"b":{},"c":[]}}', id="inside too; what is empty stays"),
        pytest.param({"a": None, "b": "", "c": True}, '{"a":null,"b":"","c":true}', id="null and empty texts stay"),
        pytest.param([1.0, -0.0, 1e3, 1e18], "[1,0,1000,1000000000000000000]", id="doubles that are integers are integers"),
        pytest.param([2.0**63, 1e19], "[9223372036854775808,10000000000000000000]", id="up to 64 bits"),
        pytest.param([2.0**64], "[1.8446744073709552e+19]", id="beyond 64 bits they stay doubles"),
        pytest.param([-(2.0**63), -1e19], "[-9223372036854775808,-1e+19]", id="negative ones"),
        pytest.param([2**53 + 1, 2**64 - 1, -(2**63)], "[9007199254740993,18446744073709551615,-9223372036854775808]", id="exact integers"),
        pytest.param([0.1, 1.5, 1e-7, 5e-324], "[0.1,1.5,1e-7,5e-324]", id="shortest doubles"),
        pytest.param('\u00e9\x7f\u2028\x01\n"\\/', '"\u00e9\x7f\u2028\\u0001\\n\\"\\\\/"', id="only what must be escaped is"),
        pytest.param(True, "true", id="a boolean is a value"),
    ],
)
def test_normal_text(value: object, text: str) -> None:
    assert normal_text(value) == text


@given(json_values)
def test_normal_text_is_the_value_and_the_only_text_of_it(value: object) -> None:
    text = normal_text(value)
    assert orjson.loads(text) == value
    assert json.loads(text) == value
    assert normal_text(orjson.loads(text)) == text
    assert normal_text(_respelled(value)) == text


def _respelled(value: Any) -> Any:
    """The same value with its names in reverse, and its numbers as the other type where that is exact."""
    if isinstance(value, dict):
        return {name: _respelled(value[name]) for name in reversed(value)}
    if isinstance(value, list):
        return [_respelled(item) for item in value]
    if type(value) is int and float(value) == value:
        return float(value)
    return value


def canonical(fields: dict[str, Any]) -> bytes:
    """RFC 8785 by the reference library, every number as a double."""

    def doubles(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: doubles(item) for name, item in value.items()}
        if isinstance(value, list):
            return [doubles(item) for item in value]
        return float(value) if type(value) is int else value

    return rfc8785.dumps(doubles(fields))


@given(valid_events)
def test_the_hashes_are_those_of_the_fields_as_rfc_8785_json(event: Event) -> None:
    fields = as_object(event)
    compared = {name: value for name, value in fields.items() if name not in ("occurred_at", "received_at", "ip", "user_agent")}
    assert compared_hash(event) == sha256(canonical(compared)).digest()
    assert whole_hash(event) == sha256(canonical(fields)).digest()


@given(json_objects)
@example({"a": 2**53 - 1})
@example({"a": 2**53 + 1})
@example({"a": -(2**53) - 1})
@example({"a": "\x7f\u2028\x1f/"})
@example({"\U0001f600": 1, "\ue000": 1})
def test_properties_are_hashed_as_rfc_8785_json(properties: dict[str, Any]) -> None:
    event = msgspec.structs.replace(page_view(1), properties=normal_text(properties))
    fields = as_object(event) | {"properties": properties}
    assert whole_hash(event) == sha256(canonical(fields)).digest()


def test_a_hash_written_out() -> None:
    """What another implementation must come to."""
    text = (
        b'{"event_id":"00000000-0000-4000-8000-000000000001","new_browser_session":false,"portal_id":1,'
        b'"properties":{"a":1,"b":0.000001},"type":"page_view","url":"https://example.com/","utk":"00000000000000000000000000000061"}'
    )
    assert compared_hash(page_view(1, properties={"b": 1e-6, "a": 1})) == sha256(text).digest()


def test_fields_are_hashed_as_an_object_and_a_repeated_name_as_the_array_of_its_values() -> None:
    event = form_submission(1, utk=None, fields=[("\ue000", "1"), ("b", "2"), ("\U0001f600", "3"), ("b", "1")])
    text = (
        '{"create_new_contact":false,"event_id":"00000000-0000-4000-8000-000000000001",'
        '"fields":{"b":["2","1"],"\U0001f600":"3","\ue000":"1"},"form_id":"contact-us","portal_id":1,"type":"form_submission",'
        '"use_cookie":true}'
    )
    assert compared_hash(event) == sha256(text.encode()).digest()


def test_large_numbers_are_hashed_as_doubles() -> None:
    text = '{"email":"a@x.io","event_id":"00000000-0000-4000-8000-000000000001","portal_id":9223372036854776000,"type":"contact_import"}'
    assert compared_hash(contact_import(1, portal=2**63 - 1)) == sha256(text.encode()).digest()


def test_times_ip_and_user_agent_are_not_compared() -> None:
    event = page_view(1)
    resent = page_view(1, at=event.occurred_at + 1, received_at=event.occurred_at, ip="192.0.2.1", user_agent="curl/8")
    assert compared_fields(resent) == compared_fields(event)
    assert compared_hash(resent) == compared_hash(event)
    assert whole_hash(resent) != whole_hash(event)


def test_compared_fields_are_those_that_are_present_defaults_included() -> None:
    assert compared_fields(identify(1, email="a@x.io", properties={"a": 1})) == {
        "type": "identify",
        "event_id": "00000000-0000-4000-8000-000000000001",
        "portal_id": 1,
        "utk": "00000000000000000000000000000061",
        "email": "a@x.io",
        "properties": '{"a":1}',
    }
    assert compared_fields(form_submission(1)).keys() == {
        "type", "event_id", "portal_id", "utk", "form_id", "create_new_contact", "use_cookie",
    }  # fmt: skip


def test_form_fields_are_compared_as_an_object() -> None:
    def fields(*pairs: tuple[str, str]) -> object:
        return compared_fields(form_submission(1, fields=pairs))["fields"]

    assert fields(("a", "1"), ("b", "2")) == fields(("b", "2"), ("a", "1"))
    assert fields(("a", "1"), ("b", "2"), ("a", "3")) == fields(("a", "1"), ("a", "3"), ("b", "2"))
    assert fields(("a", "1"), ("a", "3")) != fields(("a", "3"), ("a", "1"))
    assert fields(("a", "1")) != fields(("a", "2"))


@given(st.data())
def test_equal_compared_fields_have_equal_hashes(data: st.DataObject) -> None:
    event = data.draw(valid_events)
    copy = data.draw(copy_of(event))
    if isinstance(event, FormSubmission) and event.fields is not None and event == copy:
        copy = msgspec.structs.replace(event, fields=tuple(reversed(event.fields)))
    assert (compared_fields(event) == compared_fields(copy)) == (compared_hash(event) == compared_hash(copy))
