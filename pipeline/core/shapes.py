"""What each type of event consists of: one table (spec: events.md, "Fields"), which drives everything that parses."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from msgspec import Meta

from pipeline.core import normalise
from pipeline.core.outcomes import Reason

_Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
PlainObject = dict[str, str | bool | _Integer | None]
"""Of usual properties."""


class Rule(NamedTuple):
    """What a field must be."""

    normalised: Callable[[object], object]
    """The normal form of a value that is not absent, or None if it is none."""
    reason: Reason | None
    """Why a record is refused for a value that is none; without a reason such a value is absent."""
    expected: str
    """The value in words, for the detail of a refusal."""
    plain: Any
    """The JSON type of a usual value, for the fast way of `plain_lines`."""
    default: bool | None = None
    required: bool = False


def _object(value: object) -> object:
    return value if type(value) is dict else None


def _pairs(value: object) -> object:
    """Names and values of a JSON object, or the pairs that `parse_avro` has made (JSON has no tuples)."""
    if type(value) is dict:
        return tuple(value.items())
    return value if type(value) is tuple else None


EVENT_ID = Rule(normalise.event_id, Reason.INVALID_EVENT_ID, "a UUID", str)
PORTAL = Rule(normalise.portal, Reason.INVALID_PORTAL, "an integer from 1 to 2^63 - 1", _Integer | float)
TIME = Rule(
    normalise.timestamp,
    Reason.INVALID_TIMESTAMP,
    "RFC 3339 with zone, or integer milliseconds since 1970, from 1990-01-01 to before 2100-01-01",
    _Integer | float | str,
)
UTK = Rule(normalise.utk, Reason.INVALID_UTK, "32 hex digits, dashes aside", str)
EMAIL = Rule(normalise.email, Reason.INVALID_EMAIL, "an email address of at most 254 characters", str)
URL = Rule(
    normalise.url,
    Reason.INVALID_URL,
    "an absolute http or https URL of at most 8192 bytes, without white space and control characters",
    str,
)
REFERENCE = Rule(normalise.url, None, "as a URL, or absent", str)
TEXT = Rule(normalise.text, Reason.INVALID_FIELD, "a string", str)
NO_UNLESS_SAID = Rule(normalise.switch, Reason.INVALID_FIELD, "true or false", bool, default=False)
YES_UNLESS_SAID = NO_UNLESS_SAID._replace(default=True)
PROPERTIES = Rule(_object, Reason.INVALID_FIELD, "an object", PlainObject)
FIELDS = Rule(_pairs, Reason.INVALID_FIELD, "an object", dict[str, str])


def _required(rule: Rule) -> Rule:
    return rule._replace(required=True)


_COMMON = {
    "event_id": _required(EVENT_ID),
    "portal_id": _required(PORTAL),
    "occurred_at": _required(TIME),
    "received_at": TIME,
}

SHAPES: dict[str, dict[str, Rule]] = {
    "page_view": _COMMON
    | {
        "utk": UTK,
        "url": _required(URL),
        "title": TEXT,
        "referrer": REFERENCE,
        "user_agent": TEXT,
        "ip": TEXT,
        "new_browser_session": NO_UNLESS_SAID,
        "hstc": TEXT,
        "hssc": TEXT,
        "properties": PROPERTIES,
    },
    "email_click": _COMMON
    | {
        "utk": UTK,
        "recipient_email": _required(EMAIL),
        "send_id": _required(TEXT),
        "url": _required(URL),
        "bot": NO_UNLESS_SAID,
        "user_agent": TEXT,
        "ip": TEXT,
        "properties": PROPERTIES,
    },
    "form_submission": _COMMON
    | {
        "utk": UTK,
        "form_id": _required(TEXT),
        "email": EMAIL,
        "page_url": REFERENCE,
        "fields": FIELDS,
        "create_new_contact": NO_UNLESS_SAID,
        "use_cookie": YES_UNLESS_SAID,
        "ip": TEXT,
        "user_agent": TEXT,
    },
    "identify": _COMMON | {"utk": _required(UTK), "email": EMAIL, "external_id": TEXT, "properties": PROPERTIES},
    "custom_event": _COMMON | {"utk": UTK, "name": _required(TEXT), "properties": PROPERTIES},
    "contact_import": _COMMON | {"email": _required(EMAIL), "external_id": TEXT, "properties": PROPERTIES},
    "retraction": _COMMON | {"retracts": _required(EVENT_ID), "properties": PROPERTIES},
    "contact_merge": _COMMON | {"primary": _required(EMAIL), "secondary": _required(EMAIL), "properties": PROPERTIES},
}
"""The fields of each type by name, `type` itself aside. Whatever else a record has is an extra; the last three types have no utk."""

ONE_OF = {"identify": ("email", "external_id")}
"""Fields of which a type needs at least one."""
