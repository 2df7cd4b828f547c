"""Parsing holds for every input: what is an event stays that event, and nothing raises."""

from typing import Any

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.events import TYPES, Event
from pipeline.core.outcomes import Reason, Refused
from pipeline.core.parsing import parse_any_line, parse_avro, parse_line
from pipeline.core.plain_lines import plain_event
from tests.builders import as_decoded, contact_import, custom_event, email_click, line, page_view
from tests.core.reading import ONE_OF_EACH
from tests.strategies import json_objects, json_values, valid_events, wrong_lines


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
