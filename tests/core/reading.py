"""What the tests of parsing read, and what they ask of the outcome."""

from typing import Any

import pytest

from pipeline.core.events import Event
from pipeline.core.outcomes import Reason, Refused
from pipeline.core.parsing import parse_line
from tests.builders import (
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
WHY_BAD = [
    "invalid_event_id",
    "invalid_portal",
    "invalid_timestamp",
    "invalid_utk",
    "invalid_email",
    "invalid_url",
    "invalid_field",
]
"""The reason of each of them."""


def parsed(event: Event, **changes: Any) -> Event:
    """The event of the changed line, which must have one."""
    outcome = parse_line(line(event, **changes))
    assert isinstance(outcome, Event), outcome
    return outcome


def reason(outcome: Event | Refused) -> Reason | None:
    return outcome.reason if isinstance(outcome, Refused) else None


def refused(event: Event, **changes: Any) -> Reason | None:
    return reason(parse_line(line(event, **changes)))
