"""One normaliser per kind of value (spec: events.md, "Normalisation").

Each takes any JSON value and returns its normal form, or None if it is no such value; each is idempotent and never
raises. What a None means, a refusal or an absent field, is for `parsing` to say. Absent values (null, "", {}) do not
come here.

Their caches hold results of pure functions: they change the speed and nothing else.
"""

import re
import unicodedata
from datetime import date
from functools import lru_cache
from urllib.parse import urlsplit

import idna

from pipeline.core.caching import remembered
from pipeline.core.events import Email, EventId, Millis, PortalId, Utk

EARLIEST = Millis(631_152_000_000)
"""1990-01-01T00:00:00Z. Seconds mistaken for milliseconds are before it."""
LATEST = Millis(4_102_444_800_000)
"""2100-01-01T00:00:00Z, the first moment that is too late."""
MAX_PORTAL = 2**63 - 1
MAX_EMAIL_CHARACTERS = 254
LONGEST_EMAIL_GIVEN = 1_024
"""Characters once trimmed, before it is normalised: what NFC does with many marks on one letter takes the square of their number."""
MAX_URL_BYTES = 8192

_BLANK_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")


def portal(value: object) -> PortalId | None:
    """An integer from 1 to 2**63 - 1; 7.0, "7" and true are none."""
    return PortalId(value) if type(value) is int and 1 <= value <= MAX_PORTAL else None


# ASCII here and below: without it IGNORECASE takes U+0130 and U+0131 for an i.
_UUID = re.compile(
    r"(?P<brace>\{)?(?(brace)|(?:urn:uuid:)?)"
    r"([0-9a-f]{8})(?P<dash>-)?([0-9a-f]{4})(?(dash)-)([0-9a-f]{4})(?(dash)-)([0-9a-f]{4})(?(dash)-)([0-9a-f]{12})"
    r"(?(brace)\})",
    re.IGNORECASE | re.ASCII,
)
_UUID_AS_STORED = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def event_id(value: object) -> EventId | None:
    """A UUID: 32 hex digits or dashes in their places, any case, alone or in {} or after urn:uuid:; stored lower-case with dashes."""
    if type(value) is not str:
        return None
    if _UUID_AS_STORED.fullmatch(value):
        return EventId(value)
    match = _UUID.fullmatch(value)
    return EventId("-".join(match.group(2, 4, 5, 6, 7)).lower()) if match else None


_UTK = re.compile("[0-9a-fA-F]{32}")
_UTK_AS_STORED = re.compile("[0-9a-f]{32}")


def utk(value: object) -> Utk | None:
    """32 hex digits, with or without dashes anywhere (a UUID form is accepted); stored lower-case without dashes."""
    if type(value) is not str:
        return None
    if _UTK_AS_STORED.fullmatch(value):
        return Utk(value)
    digits = value.replace("-", "")
    return Utk(digits.lower()) if _UTK.fullmatch(digits) else None


def email(value: object) -> Email | None:
    """An address: trimmed, NFC, local part lower-case, domain as IDNA (UTS 46) writes it in ASCII; dots and +tags stay."""
    if type(value) is not str or len(trimmed := value.strip()) > LONGEST_EMAIL_GIVEN:
        return None
    local, at, domain = unicodedata.normalize("NFC", trimmed).partition("@")
    local = unicodedata.normalize("NFC", local.lower())
    ascii_domain = _ascii_domain(domain)
    if not local or not at or ascii_domain is None or _BLANK_OR_CONTROL.search(local):
        return None
    address = f"{local}@{ascii_domain}"
    return Email(address) if len(address) <= MAX_EMAIL_CHARACTERS else None


@remembered(65_536, longest=64)
def _ascii_domain(domain: str) -> str | None:
    """The domain in lower case and ASCII, if it has a dot inside and none at its ends (what `idna` refuses is no domain)."""
    try:
        encoded = idna.encode(domain.lower(), uts46=True).decode("ascii")
    except idna.IDNAError:
        return None
    return encoded if "." in encoded and not encoded.startswith(".") and not encoded.endswith(".") else None


_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]+)?(?:[/?#][!-~]*)?")


def url(value: object) -> str | None:
    """An absolute http(s) URL with a host, at most 8192 bytes, without white space and control characters; kept as given."""
    if type(value) is not str or len(value) > MAX_URL_BYTES:
        return None
    return value if _PLAIN_URL.fullmatch(value) or _is_unusual_url(value) else None


def _is_unusual_url(text: str) -> bool:
    """Whether a URL that does not look plain (upper-case scheme, user, IPv6 host, other letters than ASCII) is one all the same."""
    if _BLANK_OR_CONTROL.search(text) or len(text.encode("utf-8", "surrogatepass")) > MAX_URL_BYTES:
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


_DAY = 86_400_000
_MINUTE = re.compile("([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([01][0-9]|2[0-3]):([0-5][0-9])")
_REST = re.compile(r":([0-5][0-9]|60)(?:\.([0-9]+))?(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))")


def timestamp(value: object) -> Millis | None:
    """Epoch milliseconds from 1990 to 2099, given as such or as RFC 3339 with zone; finer digits are cut off.

    A leap second (23:59:60 UTC at the end of a month) is the second after it. RFC 3339 allows `t`, `z` and a space for `T`.
    """
    if type(value) is int:
        millis: int | None = value
    else:
        millis = _rfc_3339(value) if type(value) is str else None
    return Millis(millis) if millis is not None and EARLIEST <= millis < LATEST else None


def _rfc_3339(text: str) -> int | None:
    minute = _minute(text[:16])
    rest = _rest(text[16:])
    if minute is None or rest is None:
        return None
    millis = minute + rest
    if text[17:19] == "60" and not _is_month_start(millis // 1_000 * 1_000):
        return None
    return millis


@lru_cache(maxsize=4_096)
def _minute(text: str) -> int | None:
    """Milliseconds of a date and time to the minute, read as UTC; None if the calendar has no such day."""
    match = _MINUTE.fullmatch(text)
    if match is None:
        return None
    day, hour, minute = match.groups()
    try:
        days = date.fromisoformat(day).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        return None
    return days * _DAY + (int(hour) * 60 + int(minute)) * 60_000


@remembered(65_536, longest=32)
def _rest(text: str) -> int | None:
    """Milliseconds of the seconds, less what the zone is ahead of UTC. The cache has room for every millisecond of a minute."""
    match = _REST.fullmatch(text)
    if match is None:
        return None
    second, fraction, sign, hours, minutes = match.groups()
    millis = int(second) * 1_000 + int((fraction or "")[:3].ljust(3, "0"))
    if sign:
        ahead = (int(hours) * 60 + int(minutes)) * 60_000
        millis -= ahead if sign == "+" else -ahead
    return millis


def _is_month_start(millis: int) -> bool:
    """Whether this is midnight UTC of the first of a month: the second after a possible leap second."""
    days, into_day = divmod(millis, _DAY)
    ordinal = days + date(1970, 1, 1).toordinal()
    return into_day == 0 and 1 <= ordinal <= date.max.toordinal() and date.fromordinal(ordinal).day == 1


def text(value: object) -> str | None:
    """A string, kept as given."""
    return value if type(value) is str else None


def switch(value: object) -> bool | None:
    """A boolean; 0, 1 and "true" are none."""
    return value if type(value) is bool else None
