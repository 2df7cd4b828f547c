"""The raw events, after normalisation: immutable, and valid if they exist (spec: events.md).

An event type is a class here and a name in JSON; `TYPES` maps one to the other. The order of a class's fields is the
order of its Avro schema and of the columns of a decoded batch, so `list(map(PageView, *columns))` builds a batch.
Absent is None everywhere. Times are epoch milliseconds.
"""

from typing import ClassVar, NewType

import msgspec

PortalId = NewType("PortalId", int)
EventId = NewType("EventId", str)
"""UUID, lower-case with dashes."""
Utk = NewType("Utk", str)
"""Visitor cookie: 32 lower-case hex digits."""
Email = NewType("Email", str)
"""Normalised address: NFC, lower case, domain in ASCII."""
Millis = NewType("Millis", int)
"""Milliseconds since 1970-01-01T00:00:00Z."""
JsonText = NewType("JsonText", str)
"""A JSON object as text in the normal form of `canonical.py` (sorted keys, one text per value)."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """What every event has. `utk` is always None for what no browser does: imports, merges and retractions."""

    type: ClassVar[str]

    event_id: EventId
    portal_id: PortalId
    occurred_at: Millis
    received_at: Millis | None
    utk: Utk | None


class PageView(Event, frozen=True, gc=False):
    type: ClassVar[str] = "page_view"

    url: str
    title: str | None
    referrer: str | None
    user_agent: str | None
    ip: str | None
    new_browser_session: bool
    hstc: str | None
    hssc: str | None
    properties: JsonText | None


class EmailClick(Event, frozen=True, gc=False):
    type: ClassVar[str] = "email_click"

    recipient_email: Email
    send_id: str
    url: str
    bot: bool
    user_agent: str | None
    ip: str | None
    properties: JsonText | None


class FormSubmission(Event, frozen=True, gc=False):
    type: ClassVar[str] = "form_submission"

    form_id: str
    email: Email | None
    page_url: str | None
    fields: tuple[tuple[str, str], ...] | None
    """(name, value) pairs in the order given; names may repeat when a producer wrote Avro."""
    create_new_contact: bool
    use_cookie: bool
    ip: str | None
    user_agent: str | None


class Identify(Event, frozen=True, gc=False):
    type: ClassVar[str] = "identify"

    email: Email | None
    external_id: str | None
    properties: JsonText | None


class CustomEvent(Event, frozen=True, gc=False):
    type: ClassVar[str] = "custom_event"

    name: str
    properties: JsonText | None


class ContactImport(Event, frozen=True, gc=False):
    type: ClassVar[str] = "contact_import"

    email: Email
    external_id: str | None
    properties: JsonText | None


class Retraction(Event, frozen=True, gc=False):
    """An earlier event of the portal never happened."""

    type: ClassVar[str] = "retraction"

    retracts: EventId
    properties: JsonText | None


class ContactMerge(Event, frozen=True, gc=False):
    """The contact with one address is the contact with another."""

    type: ClassVar[str] = "contact_merge"

    primary: Email
    secondary: Email
    properties: JsonText | None


Evidence = FormSubmission | EmailClick | Identify | ContactImport | ContactMerge

_KINDS = (PageView, EmailClick, FormSubmission, Identify, CustomEvent, ContactImport, Retraction, ContactMerge)
TYPES: dict[str, type[Event]] = {kind.type: kind for kind in _KINDS}

WITHOUT_COOKIE = frozenset({ContactImport, Retraction, ContactMerge})
"""What no browser does: neither the schemas nor the JSON of these types have a utk."""

NOT_COMPARED = frozenset({"occurred_at", "received_at", "ip", "user_agent"})
"""Copies of one event may differ in these (a resend, another network); everything else must agree."""


def is_activity(event: Event) -> bool:
    """Whether the event counts for sessions (spec: sessions.md, "Activity"); one without a cookie never does."""
    if event.utk is None:
        return False
    return not (isinstance(event, EmailClick) and event.bot)


def matters_to_identity(event: Event) -> bool:
    """Whether the fold of a portal must see the event: evidence, and what may retract it."""
    return isinstance(event, Evidence | Retraction)
