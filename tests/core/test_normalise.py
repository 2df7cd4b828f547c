"""The normalisers, a sentence of the spec each (events.md, "Normalisation" and "Fields")."""

import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core import normalise
from tests.strategies import json_values, names, texts

ID = "01234567-89ab-cdef-0123-456789abcdef"
UTK = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(ID, id="as stored"),
        pytest.param(ID.upper(), id="upper case"),
        pytest.param(UTK, id="32 digits"),
        pytest.param("{" + ID + "}", id="in braces"),
        pytest.param("{" + UTK.upper() + "}", id="32 digits in braces"),
        pytest.param("urn:uuid:" + ID, id="urn"),
        pytest.param("URN:UUID:" + ID.upper(), id="upper-case urn"),
        pytest.param("urn:uuid:" + UTK, id="32 digits after urn"),
    ],
)
def test_an_event_id_is_a_uuid_in_any_of_its_forms(given: str) -> None:
    assert normalise.event_id(given) == ID


@pytest.mark.parametrize(
    "given",
    [
        ID[:-1],
        ID + "0",
        ID + "\n",
        " " + ID,
        ID.replace("-", "", 1),
        ID.replace("-", "_"),
        "0123456-789ab-cdef-0123-456789abcdef",
        "{" + ID,
        ID + "}",
        "urn:uuid:{" + ID + "}",
        "{urn:uuid:" + ID + "}",
        "urn:" + ID,
        "urn:uu\u0131d:" + ID,
        ID.replace("0", "\u0660"),
        ID.replace("a", "g"),
        7,
        True,
        [ID],
    ],
)
def test_anything_else_is_no_event_id(given: object) -> None:
    assert normalise.event_id(given) is None


@pytest.mark.parametrize("given", [1, 7, 2**53 + 1, 2**63 - 1])
def test_a_portal_is_an_integer_from_1_to_63_bits(given: int) -> None:
    assert normalise.portal(given) == given


@pytest.mark.parametrize("given", [0, -1, 2**63, 7.0, "7", True, [1]])
def test_anything_else_is_no_portal(given: object) -> None:
    assert normalise.portal(given) is None


@pytest.mark.parametrize("given", [UTK, UTK.upper(), ID, ID.upper(), "-" + UTK + "-", "0-1-2-3-4-5-6-7-" + UTK[8:]])
def test_a_utk_is_32_hex_digits_once_its_dashes_are_removed(given: str) -> None:
    assert normalise.utk(given) == UTK


@pytest.mark.parametrize(
    "given", [UTK[:-1], UTK + "0", " " + UTK, UTK + "\n", "{" + ID + "}", UTK.replace("a", "g"), UTK.replace("0", "\u0660"), "-", 1, [UTK]]
)
def test_anything_else_is_no_utk(given: object) -> None:
    assert normalise.utk(given) is None


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        pytest.param("a@x.io", "a@x.io", id="plain"),
        pytest.param(" \t\u00a0A@X.io\r\n\x1f", "a@x.io", id="white space around it is trimmed as str.strip does"),
        pytest.param("A.B+X@Gmail.COM", "a.b+x@gmail.com", id="no dot or plus folding"),
        pytest.param("jo\u0308rg@x.io", "j\u00f6rg@x.io", id="NFC"),
        pytest.param("J\u0308@x.io", "j\u0308@x.io", id="NFC of what has no composed form"),
        pytest.param("\u0130@x.io", "i\u0307@x.io", id="lower-cased by Python's rules"),
        pytest.param("H\u0331@x.io", "\u1e96@x.io", id="NFC again after lower-casing"),
        pytest.param("a@M\u00dcNCHEN.de", "a@xn--mnchen-3ya.de", id="IDNA"),
        pytest.param("a@xn--mnchen-3ya.de", "a@xn--mnchen-3ya.de", id="IDNA already"),
        pytest.param("a@fa\u00df.de", "a@xn--fa-hia.de", id="UTS 46, not transitional"),
        pytest.param("a@x\u3002io", "a@x.io", id="another full stop"),
        pytest.param("a@\uff58.\uff49\uff4f", "a@x.io", id="full-width letters in the domain"),
        pytest.param('"ab"@x.io', '"ab"@x.io', id="other signs are kept"),
        pytest.param("a" * 249 + "@x.io", "a" * 249 + "@x.io", id="254 characters"),
    ],
)
def test_an_email_is_stored_in_normal_form(given: str, stored: str) -> None:
    assert normalise.email(given) == stored


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("x.io", id="no @"),
        pytest.param("a@b@x.io", id="two @"),
        pytest.param("a@b\uff20x.io", id="an @ that IDNA would make"),
        pytest.param("@x.io", id="no local part"),
        pytest.param("a@", id="no domain"),
        pytest.param("a@localhost", id="no dot"),
        pytest.param("a@.x.io", id="dot in front"),
        pytest.param("a@x.io.", id="dot at the end"),
        pytest.param("a@x..io", id="empty label"),
        pytest.param("a@x.io\u3002", id="another full stop at the end"),
        pytest.param("a b@x.io", id="space"),
        pytest.param("a @x.io", id="space before the @"),
        pytest.param("a@ x.io", id="space after the @"),
        pytest.param("a\u2003b@x.io", id="other white space"),
        pytest.param("a\x00b@x.io", id="control character"),
        pytest.param("a\x7fb@x.io", id="DEL"),
        pytest.param("a\x9fb@x.io", id="C1 control character"),
        pytest.param("a@x y.io", id="space in the domain"),
        pytest.param("a@x\ty.io", id="tab in the domain"),
        pytest.param("a" * 250 + "@x.io", id="255 characters"),
        pytest.param("a@" + "x" * 64 + ".io", id="label too long"),
        pytest.param("a@[127.0.0.1]", id="address literal"),
        pytest.param("   ", id="blank"),
        1,
        ["a@x.io"],
        {"a": "a@x.io"},
    ],
)
def test_anything_else_is_no_email(given: object) -> None:
    assert normalise.email(given) is None


def test_no_white_space_and_no_control_character_is_in_an_email_or_url() -> None:
    """All of Unicode, within the local part, the domain, the host and the path."""
    signs = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace() or unicodedata.category(chr(code)) == "Cc"]
    assert len(signs) == 84
    for sign in signs:
        assert normalise.email(f"a{sign}b@x.io") is None
        assert normalise.email(f"a@x{sign}y.io") is None
        assert normalise.url(f"https://x{sign}y.io/") is None
        assert normalise.url(f"https://x.io/{sign}y") is None


def test_a_domain_counts_as_the_ascii_that_is_stored() -> None:
    """254 characters are counted after the domain was encoded."""
    domain = "m\u00fcnchen.de"
    assert normalise.email("a" * (253 - len("xn--mnchen-3ya.de")) + "@" + domain) is not None
    assert normalise.email("a" * (254 - len("xn--mnchen-3ya.de")) + "@" + domain) is None


@pytest.mark.parametrize(
    "given",
    [
        "http://x",
        "https://example.com",
        "https://example.com/a?b=c#d",
        "https://example.com?b",
        "https://example.com:8443/",
        "HTTPS://Example.COM/Path",
        "https://user:pw@example.com/",
        "http://[::1]:80/",
        "http://192.0.2.1/",
        "https://m\u00fcnchen.de/\u00fc",
        "https://example.com/" + "a" * 8172,
        "https://example.com/" + "\u00fc" * 4086,
    ],
)
def test_a_url_is_absolute_and_stored_as_given(given: str) -> None:
    assert normalise.url(given) == given


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("/path", id="relative"),
        pytest.param("example.com", id="no scheme"),
        pytest.param("//example.com/", id="no scheme, with host"),
        pytest.param("ftp://example.com/", id="other scheme"),
        pytest.param("javascript:alert(1)", id="script"),
        pytest.param("https:example.com", id="no slashes"),
        pytest.param("https:///path", id="no host"),
        pytest.param("https://", id="nothing"),
        pytest.param("https://:80/", id="port without host"),
        pytest.param("https://user@/", id="user without host"),
        pytest.param("https://[::1/", id="open bracket"),
        pytest.param("https://exam\u2100ple.com/", id="host that NFKC would cut"),
        pytest.param(" https://example.com/", id="space before"),
        pytest.param("https://example.com/\n", id="line end"),
        pytest.param("https://example.com/a b", id="space"),
        pytest.param("https://example.com/a\u00a0b", id="other white space"),
        pytest.param("https://example.com/a\x00b", id="control character"),
        pytest.param("https://example.com/a\x7f", id="DEL"),
        pytest.param("https://example.com/\x85", id="C1 control character"),
        pytest.param("https://example.com/" + "a" * 8173, id="8193 bytes"),
        pytest.param("https://example.com/" + "\u00fc" * 4086 + "a", id="8193 bytes in fewer characters"),
        1,
        ["https://example.com/"],
    ],
)
def test_anything_else_is_no_url(given: object) -> None:
    assert normalise.url(given) is None


@given(st.text("htps:/@[]?#.%\\\u00fcaZ09-_ \x00\u2028", max_size=20).map("http".__add__))
@example("http://a/[")
@example("http://a?[]")
def test_the_fast_check_of_urls_accepts_nothing_that_the_full_one_refuses(text: str) -> None:
    assert (normalise.url(text) is not None) == normalise._is_unusual_url(text)


@pytest.mark.parametrize(
    ("given", "millis"),
    [
        pytest.param(1_700_000_000_000, 1_700_000_000_000, id="milliseconds"),
        pytest.param("2023-11-14T22:13:20Z", 1_700_000_000_000, id="whole seconds"),
        pytest.param("2023-11-14t22:13:20z", 1_700_000_000_000, id="small letters"),
        pytest.param("2023-11-14 22:13:20Z", 1_700_000_000_000, id="space"),
        pytest.param("2023-11-14T23:43:20+01:30", 1_700_000_000_000, id="east"),
        pytest.param("2023-11-14T14:13:20-08:00", 1_700_000_000_000, id="west"),
        pytest.param("2023-11-15T22:12:20+23:59", 1_700_000_000_000, id="far east"),
        pytest.param("2023-11-14T22:13:20-00:00", 1_700_000_000_000, id="unknown zone, but UTC"),
        pytest.param("2023-11-14T22:13:20.1Z", 1_700_000_000_100, id="one digit"),
        pytest.param("2023-11-14T22:13:20.012Z", 1_700_000_000_012, id="three digits"),
        pytest.param("2023-11-14T22:13:20.0129999999999999Z", 1_700_000_000_012, id="finer digits cut off"),
        pytest.param("2023-11-14T22:13:20.999999+00:00", 1_700_000_000_999, id="never rounded up"),
        pytest.param("2024-02-29T00:00:00Z", 1_709_164_800_000, id="leap day"),
        pytest.param("2016-12-31T23:59:60Z", 1_483_228_800_000, id="leap second is the next second"),
        pytest.param("2016-12-31T23:59:60.5Z", 1_483_228_800_500, id="within a leap second"),
        pytest.param("2016-12-31T15:59:60-08:00", 1_483_228_800_000, id="leap second elsewhere"),
        pytest.param("2015-06-30T23:59:60Z", 1_435_708_800_000, id="leap second in summer"),
        pytest.param(631_152_000_000, 631_152_000_000, id="first moment"),
        pytest.param("1990-01-01T00:00:00Z", 631_152_000_000, id="first moment in words"),
        pytest.param("1989-12-31T23:00:00-01:00", 631_152_000_000, id="first moment elsewhere"),
        pytest.param("1989-12-31T23:59:60Z", 631_152_000_000, id="first moment as a leap second"),
        pytest.param(4_102_444_799_999, 4_102_444_799_999, id="last moment"),
        pytest.param("2099-12-31T23:59:59.9999Z", 4_102_444_799_999, id="last moment in words"),
    ],
)
def test_a_time_is_stored_in_milliseconds(given: object, millis: int) -> None:
    assert normalise.timestamp(given) == millis


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(631_151_999_999, id="before 1990"),
        pytest.param("1989-12-31T23:59:59.999Z", id="before 1990 in words"),
        pytest.param(4_102_444_800_000, id="2100"),
        pytest.param("2100-01-01T00:00:00Z", id="2100 in words"),
        pytest.param("2099-12-31T23:59:60Z", id="2100 as a leap second"),
        pytest.param(1_700_000_000, id="seconds mistaken for milliseconds"),
        pytest.param(0, id="zero"),
        pytest.param(-1_700_000_000_000, id="negative"),
        pytest.param(1_700_000_000_000.0, id="a double"),
        pytest.param("1700000000000", id="digits in a string"),
        pytest.param(True, id="a boolean"),
        pytest.param("2023-11-14T22:13:20", id="no zone"),
        pytest.param("2023-11-14", id="no time"),
        pytest.param("2023-11-14T22:13Z", id="no seconds"),
        pytest.param("2023-11-14T22:13:20.Z", id="no digit after the dot"),
        pytest.param("2023-11-14T22:13:20,5Z", id="comma"),
        pytest.param("2023-11-14T22:13:20+0100", id="zone without colon"),
        pytest.param("2023-11-14T22:13:20+01", id="zone without minutes"),
        pytest.param("2023-11-14T22:13:20+24:00", id="zone beyond a day"),
        pytest.param("2023-11-14T22:13:20+01:60", id="zone with 60 minutes"),
        pytest.param("2023-11-14T22:13:20ZZ", id="two zones"),
        pytest.param("2023-11-14T22:13:20Z\n", id="line end"),
        pytest.param(" 2023-11-14T22:13:20Z", id="space before"),
        pytest.param("2023-11-14_22:13:20Z", id="another separator"),
        pytest.param("20231114T221320Z", id="basic format"),
        pytest.param("2023-W46-2T22:13:20Z", id="week date"),
        pytest.param("2023-02-29T00:00:00Z", id="no leap year"),
        pytest.param("2023-13-01T00:00:00Z", id="month 13"),
        pytest.param("2023-11-00T00:00:00Z", id="day 0"),
        pytest.param("2023-11-31T00:00:00Z", id="day 31 of 30"),
        pytest.param("2023-11-14T24:00:00Z", id="hour 24"),
        pytest.param("2023-11-14T22:60:00Z", id="minute 60"),
        pytest.param("2023-11-14T22:13:61Z", id="second 61"),
        pytest.param("2023-11-14T22:13:60Z", id="leap second in the middle of an hour"),
        pytest.param("2016-12-30T23:59:60Z", id="leap second within a month"),
        pytest.param("2016-12-31T23:59:60+01:00", id="leap second that is not UTC's midnight"),
        pytest.param("0000-01-01T00:00:00Z", id="year 0"),
        pytest.param("0001-01-01T00:00:60+23:59", id="before the calendar"),
        pytest.param("9999-12-31T23:59:60-23:59", id="after the calendar"),
        pytest.param("\u0662023-11-14T22:13:20Z", id="other digits"),
        pytest.param("", id="nothing"),
        ["2023-11-14T22:13:20Z"],
    ],
)
def test_anything_else_is_no_time(given: object) -> None:
    assert normalise.timestamp(given) is None


@given(st.datetimes(), st.integers(-1439, 1439), st.sampled_from("Tt "), st.integers(0, 9))
def test_a_time_with_an_offset_is_that_many_minutes_apart(moment: Any, offset: int, separator: str, digits: int) -> None:
    fraction = "." + f"{moment.microsecond:06d}000"[:digits] if digits else ""
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}"
    text = moment.strftime(f"{moment.year:04d}-%m-%d{separator}%H:%M:%S") + fraction + zone
    since_epoch = moment.toordinal() - 719_163
    seconds = (since_epoch * 24 + moment.hour) * 3600 + (moment.minute - offset) * 60 + moment.second
    millis = seconds * 1000 + (int(fraction[1:4].ljust(3, "0")) if digits else 0)
    assert normalise.timestamp(text) == (millis if 631_152_000_000 <= millis < 4_102_444_800_000 else None)


NO_SWITCHES: list[object] = [0, 1, "true", "", []]


def test_texts_are_strings_and_switches_are_booleans() -> None:
    assert normalise.text(" as given ") == " as given "
    assert [normalise.text(value) for value in (1, True, ["a"], 1.5)] == [None] * 4
    assert [normalise.switch(value) for value in (True, False)] == [True, False]
    assert [normalise.switch(value) for value in NO_SWITCHES] == [None] * 5


NORMALISERS: list[Callable[[object], object]] = [
    normalise.event_id,
    normalise.portal,
    normalise.utk,
    normalise.email,
    normalise.url,
    normalise.timestamp,
    normalise.text,
    normalise.switch,
]

emails = st.builds(
    "{}@{}.{}".format, texts, st.text(max_size=10) | st.sampled_from(("x", "\u00fc", "XN--")), st.sampled_from(("io", "\u00df", "de"))
)


@given(st.sampled_from(NORMALISERS), json_values | emails | names)
@example(normalise.email, "\u0130\u0307@x.io")
@example(normalise.email, "\u03a3@\u03a3.io")
def test_normalisers_are_idempotent_and_never_raise(normaliser: Callable[[object], object], value: object) -> None:
    normal = normaliser(value)
    assert normal is None or normaliser(normal) == normal


@given(emails)
def test_an_email_is_in_nfc_and_lower_case(text: str) -> None:
    normal = normalise.email(text)
    if normal is not None:
        assert unicodedata.is_normalized("NFC", normal)
        assert normal.partition("@")[2].isascii()
        assert normal.count("@") == 1
