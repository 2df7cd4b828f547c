"""Which lines are JSON, and how long one may be (events.md)."""

from typing import Any

import msgspec
import orjson
import pytest

from pipeline.core.events import Event, PageView
from pipeline.core.outcomes import Reason
from pipeline.core.parsing import parse_any_line, parse_line
from tests.builders import form_submission, line, page_view
from tests.core.reading import reason


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
