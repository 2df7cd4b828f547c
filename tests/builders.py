"""Builders of events: what a test does not name has a readable default, and equal arguments build equal events.

The first argument of each, if given, is the number of the event id (see `event_id`).

Builders make the objects of `pipeline.core.events` directly, so a test may use times like 1, 2, 3 as the spec's examples
do; `line` makes the JSON line that somebody would import, and needs times that are valid (`START` and later).
"""

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from pipeline.core.events import (
    WITHOUT_COOKIE,
    ContactImport,
    ContactMerge,
    CustomEvent,
    Email,
    EmailClick,
    Event,
    EventId,
    FormSubmission,
    Identify,
    JsonText,
    Millis,
    PageView,
    PortalId,
    Retraction,
    Utk,
)

START = Millis(1_700_000_000_000)
"""2023-11-14T22:13:20Z."""
SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_DEFAULT_IDS = uuid.UUID(int=0)


def utk(name: str) -> Utk:
    """The cookie with this short name (at most 16 bytes); 32 digits are a cookie already."""
    return Utk(name if len(name) == 32 else name.encode().hex().rjust(32, "0"))


def event_id(number: int) -> EventId:
    """The event id for a small integer; ids sort as their integers do."""
    return EventId(str(uuid.UUID(int=(0x4000_8000 << 48) | number)))


def json_text(value: dict[str, Any] | None) -> JsonText | None:
    """Properties as an event holds them; values whose normal form is in doubt belong into the tests of `canonical`."""
    return JsonText(orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()) if value else None


def pairs(fields: dict[str, str] | Sequence[tuple[str, str]] | None) -> tuple[tuple[str, str], ...] | None:
    """Form fields as an event holds them, from an object or, where names repeat, from pairs."""
    return tuple(fields.items() if isinstance(fields, dict) else fields) if fields else None


def _id(number: int | None, *content: object) -> EventId:
    """The id given, or one that only events with the same content share."""
    return event_id(number) if number is not None else EventId(str(uuid.uuid5(_DEFAULT_IDS, repr(content))))


def _cookie(name: str | None) -> Utk | None:
    return None if name is None else utk(name)


def page_view(
    number: int | None = None,
    /,
    *,
    at: int = START,
    portal: int = 1,
    utk: str | None = "a",
    url: str = "https://example.com/",
    title: str | None = None,
    referrer: str | None = None,
    user_agent: str | None = None,
    ip: str | None = None,
    new_browser_session: bool = False,
    hstc: str | None = None,
    hssc: str | None = None,
    properties: dict[str, Any] | None = None,
    received_at: int | None = None,
) -> PageView:
    """A page view of cookie "a"; `utk` is a short name or 32 digits here and below."""
    return PageView(
        _id(number, "page_view", at, portal, utk, url, title, referrer, new_browser_session, hstc, hssc, properties),
        PortalId(portal),
        Millis(at),
        None if received_at is None else Millis(received_at),
        _cookie(utk),
        url,
        title,
        referrer,
        user_agent,
        ip,
        new_browser_session,
        hstc,
        hssc,
        json_text(properties),
    )


def email_click(
    number: int | None = None,
    /,
    *,
    at: int = START,
    portal: int = 1,
    utk: str | None = "a",
    recipient_email: str = "a@x.io",
    send_id: str = "send-1",
    url: str = "https://example.com/offer",
    bot: bool = False,
    user_agent: str | None = None,
    ip: str | None = None,
    properties: dict[str, Any] | None = None,
    received_at: int | None = None,
) -> EmailClick:
    """A click on a link in a mail to a@x.io, which landed on cookie "a"."""
    return EmailClick(
        _id(number, "email_click", at, portal, utk, recipient_email, send_id, url, bot, properties),
        PortalId(portal),
        Millis(at),
        None if received_at is None else Millis(received_at),
        _cookie(utk),
        Email(recipient_email),
        send_id,
        url,
        bot,
        user_agent,
        ip,
        json_text(properties),
    )


def form_submission(
    number: int | None = None,
    /,
    *,
    at: int = START,
    portal: int = 1,
    utk: str | None = "a",
    form_id: str = "contact-us",
    email: str | None = None,
    page_url: str | None = None,
    fields: dict[str, str] | Sequence[tuple[str, str]] | None = None,
    create_new_contact: bool = False,
    use_cookie: bool = True,
    ip: str | None = None,
    user_agent: str | None = None,
    received_at: int | None = None,
) -> FormSubmission:
    """A form without an email, sent with cookie "a"."""
    return FormSubmission(
        _id(number, "form_submission", at, portal, utk, form_id, email, page_url, fields, create_new_contact, use_cookie),
        PortalId(portal),
        Millis(at),
        None if received_at is None else Millis(received_at),
        _cookie(utk),
        form_id,
        None if email is None else Email(email),
        page_url,
        pairs(fields),
        create_new_contact,
        use_cookie,
        ip,
        user_agent,
    )


def identify(
    number: int | None = None,
    /,
    *,
    at: int = START,
    portal: int = 1,
    utk: str = "a",
    email: str | None = None,
    external_id: str | None = None,
    properties: dict[str, Any] | None = None,
    received_at: int | None = None,
) -> Identify:
    """An identify call on cookie "a"; give it an email or an external id, as the spec demands."""
    return Identify(
        _id(number, "identify", at, portal, utk, email, external_id, properties),
        PortalId(portal),
        Millis(at),
        None if received_at is None else Millis(received_at),
        _cookie(utk),
        None if email is None else Email(email),
        external_id,
        json_text(properties),
    )


def custom_event(
    number: int | None = None,
    /,
    *,
    at: int = START,
    portal: int = 1,
    utk: str | None = "a",
    name: str = "added_to_cart",
    properties: dict[str, Any] | None = None,
    received_at: int | None = None,
) -> CustomEvent:
    """A custom event of cookie "a"."""
    return CustomEvent(
        _id(number, "custom_event", at, portal, utk, name, properties),
        PortalId(portal),
        Millis(at),
        None if received_at is None else Millis(received_at),
        _cookie(utk),
        name,
        json_text(properties),
    )


def contact_import(
    number: int | None = None,
    /,
    *,
    at: int = START,
    portal: int = 1,
    email: str = "a@x.io",
    external_id: str | None = None,
    properties: dict[str, Any] | None = None,
    received_at: int | None = None,
) -> ContactImport:
    """The import of a@x.io."""
    return ContactImport(
        _id(number, "contact_import", at, portal, email, external_id, properties),
        PortalId(portal),
        Millis(at),
        None if received_at is None else Millis(received_at),
        None,
        Email(email),
        external_id,
        json_text(properties),
    )


def retraction(
    number: int | None = None,
    /,
    *,
    at: int = START,
    portal: int = 1,
    retracts: int | str = 1,
    properties: dict[str, Any] | None = None,
    received_at: int | None = None,
) -> Retraction:
    """The retraction of the event with this number or id."""
    return Retraction(
        _id(number, "retraction", at, portal, retracts, properties),
        PortalId(portal),
        Millis(at),
        None if received_at is None else Millis(received_at),
        None,
        event_id(retracts) if isinstance(retracts, int) else EventId(retracts),
        json_text(properties),
    )


def contact_merge(
    number: int | None = None,
    /,
    *,
    at: int = START,
    portal: int = 1,
    primary: str = "a@x.io",
    secondary: str = "b@x.io",
    properties: dict[str, Any] | None = None,
    received_at: int | None = None,
) -> ContactMerge:
    """The statement that b@x.io is a@x.io."""
    return ContactMerge(
        _id(number, "contact_merge", at, portal, primary, secondary, properties),
        PortalId(portal),
        Millis(at),
        None if received_at is None else Millis(received_at),
        None,
        Email(primary),
        Email(secondary),
        json_text(properties),
    )


def as_object(event: Event) -> dict[str, Any]:
    """The event as the JSON object that people import: absent fields left out, `properties` and `fields` as objects."""
    present = {"type": event.type} | {name: value for name, value in msgspec.structs.asdict(event).items() if value is not None}
    if "properties" in present:
        present["properties"] = orjson.loads(present["properties"])
    if "fields" in present:
        present["fields"] = dict(present["fields"])
    return present


def as_decoded(event: Event) -> dict[str, Any]:
    """The event as a record decoded from Avro: absent fields None, `fields` a list of name and value."""
    decoded = msgspec.structs.asdict(event)
    if type(event) in WITHOUT_COOKIE:
        del decoded["utk"]
    if decoded.get("fields") is not None:
        decoded["fields"] = [{"name": name, "value": value} for name, value in decoded["fields"]]
    return decoded


def line(event: Event, **changes: Any) -> bytes:
    """The event as a JSON line without its line end; a change to `...` removes a field, any other sets or adds it."""
    changed = as_object(event) | changes
    return orjson.dumps({name: value for name, value in changed.items() if value is not ...})
