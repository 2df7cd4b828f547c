"""What can become of a record: an event, or a refusal with a reason from a closed set (spec: events.md, "Refused records")."""

from enum import StrEnum

import msgspec


class Reason(StrEnum):
    """Why a record was refused, in the order in which the reasons are tried."""

    TOO_LARGE = "too_large"
    MALFORMED_JSON = "malformed_json"
    MALFORMED_AVRO = "malformed_avro"
    UNKNOWN_SCHEMA = "unknown_schema"
    UNKNOWN_TYPE = "unknown_type"
    MISSING_FIELD = "missing_field"
    INVALID_EVENT_ID = "invalid_event_id"
    INVALID_PORTAL = "invalid_portal"
    INVALID_TIMESTAMP = "invalid_timestamp"
    INVALID_UTK = "invalid_utk"
    INVALID_EMAIL = "invalid_email"
    INVALID_URL = "invalid_url"
    INVALID_FIELD = "invalid_field"
    CONFLICTING_DUPLICATE = "conflicting_duplicate"
    """A statement about a set of copies, not about one record: never in the dead-letter topic."""


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A record that cannot become an event. `detail` names the field and what was expected, never the value."""

    reason: Reason
    detail: str
