"""`timeline`: what a contact did, or what happened on a cookie, in order, and why it is theirs (spec: timeline.md).

A contact is asked for by id, or by an address that it has now or, if nobody has it now, had before; one that was merged into another
is asked for by what it was, and the other is shown. Reads the view `timeline_of`, and so
only what belongs to the contact.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from clickhouse_driver import Client

from pipeline.adapters import clickhouse
from pipeline.core import normalise
from pipeline.core.evidence import Rule
from pipeline.core.timeline import COOKIE_BOUND, COOKIE_TEMPORARY, COOKIE_UNKNOWN
from pipeline.errors import UsageError, UserError
from pipeline.replay import registry
from pipeline.settings import Settings

PENDING = "pending"
"""Rule of evidence that has just arrived and is not resolved yet."""

_TIMES = ("occurred_at", "session_started_at")
_IDS = ("contact_id", "event_id", "session_id", "evidence", "temporary_contact_id")


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One event of a timeline: the columns of the view, times in epoch milliseconds, absent ones left out of the JSON."""

    portal_id: int
    occurred_at: int
    event_id: str
    type: str
    contact_id: str | None = None
    email: str | None = None
    utk: str | None = None
    session_id: str | None = None
    session_number: int | None = None
    session_started_at: int | None = None
    session_source: str | None = None
    rule: str
    evidence: str | None = None
    temporary_contact_id: str | None = None
    url: str | None = None
    title: str | None = None
    referrer: str | None = None
    form_id: str | None = None
    page_url: str | None = None
    fields: list[tuple[str, str]] = []
    given_email: str | None = None
    recipient_email: str | None = None
    send_id: str | None = None
    bot: bool | None = None
    external_id: str | None = None
    name: str | None = None
    primary: str | None = None
    secondary: str | None = None
    properties: str | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """Events in the order (occurred_at, event_id), and whose they are, in words."""

    about: tuple[str, ...]
    entries: tuple[Entry, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)


def timeline(settings: Settings, portal: int, *, email: str | None = None, contact: str | None = None, utk: str | None = None) -> Timeline:
    """The timeline of the contact, or of the cookie with all its owners; one of the three is given.

    UsageError if it is no address, id or cookie; UserError if there is no such contact, or ClickHouse cannot be asked.
    """
    client = clickhouse.connect(registry.live(settings))
    if utk is not None:
        cookie = _valid(normalise.utk(utk), "--utk", utk, "32 hex digits, with or without dashes")
        return Timeline((f"cookie {cookie} in portal {portal}",), tuple(_entries(client, portal, cookie=cookie)))
    if contact is not None:
        contacts = _contacts(client, portal, "contact_id = %(of)s", _valid(normalise.event_id(contact), "--contact", contact, "a UUID"))
        asked = f"id {contact}"
    else:
        address = _valid(normalise.email(email), "--email", str(email), "an email address")
        contacts = _contacts(client, portal, "email = %(of)s", address) or _contacts(client, portal, "has(former_emails, %(of)s)", address)
        asked = f"address {address}, now or formerly"
    if not contacts:
        raise UserError(
            f"portal {portal} has no contact with the {asked}. Is it the right portal? New events may still be on their way: see `status`."
        )
    entries = [entry for found in contacts for entry in _entries(client, portal, contact=found["contact_id"])]
    entries.sort(key=lambda entry: (entry.occurred_at, entry.event_id))
    return Timeline(tuple(_introduced(found) for found in contacts), tuple(entries))


def everybody(client: Client) -> Iterator[Entry]:
    """The events of all portals, nobody's too, each with its owner; for looking on while there are few."""
    names = Entry.__struct_fields__
    rows = client.execute(f"SELECT {', '.join(_column(name) for name in names)} FROM timeline")
    return (Entry(**dict(zip(names, row, strict=True))) for row in rows)


def in_words(shown: Timeline) -> Iterator[tuple[str, str, str, str, str]]:
    """For each event when, what, where, in which session, and whose it is and why."""
    by_id = {entry.event_id: entry for entry in shown}
    for entry in shown:
        session = "" if entry.session_number is None else str(entry.session_number)
        yield _moment(entry.occurred_at), what(entry), where(entry), session, why(entry, by_id)


def what(entry: Entry) -> str:  # noqa: PLR0911 - one branch a type of event
    """What happened, in a few words."""
    match entry.type:
        case "page_view":
            return f"viewed {entry.title!r}" if entry.title else "viewed a page"
        case "email_click":
            by_whom = "a machine clicked" if entry.bot else "clicked"
            return f"{by_whom} a link in mail {entry.send_id} to {entry.recipient_email}"
        case "form_submission":
            return f"sent form {entry.form_id}" + (f" as {entry.given_email}" if entry.given_email else "")
        case "identify":
            return "was identified as " + " and ".join(filter(None, (entry.given_email, entry.external_id and f"id {entry.external_id}")))
        case "contact_import":
            return f"was imported as {entry.given_email}"
        case "contact_merge":
            return f"{entry.secondary} turned out to be {entry.primary}"
        case _:
            return entry.name or entry.type


def where(entry: Entry) -> str:
    """The page, if there is one."""
    return entry.url or entry.page_url or ""


def why(entry: Entry, known: Mapping[str, Entry]) -> str:
    """Whose the event is and by which rule, with the evidence if it came through the cookie; `known` holds events that may be it."""
    reason = f"{RULES[entry.rule]} ({entry.rule})" if entry.rule in RULES else entry.rule
    owner = entry.email or entry.contact_id or (f"possibly {entry.temporary_contact_id}" if entry.temporary_contact_id else "nobody")
    if entry.evidence is None:
        return f"{owner}: {reason}"
    cause = known.get(entry.evidence)
    seen = f"{what(cause)}, {_moment(cause.occurred_at)}" if cause else f"event {entry.evidence}"
    return f"{owner}: {reason}; evidence: {seen}"


RULES: Mapping[str, str] = {
    COOKIE_BOUND: "the cookie is theirs",
    COOKIE_TEMPORARY: "a guess: the cookie clicked a mail that may have been forwarded",
    COOKIE_UNKNOWN: "the cookie is nobody's yet",
    PENDING: "not resolved yet",
    Rule.FORM_KNOWN_EMAIL: "the form gave their address",
    Rule.FORM_REPLACES_EMAIL: "a form on their cookie gave a new address",
    Rule.FORM_NEW_CONTACT: "the form made the contact",
    Rule.FORM_COOKIE_OWNER: "a form without address on their cookie",
    Rule.FORM_NEW_WITHOUT_EMAIL: "a form without address made the contact",
    Rule.FORM_NOBODY: "a form without address or cookie",
    Rule.CLICK_BOT: "their mail, clicked by a machine",
    Rule.CLICK_UNKNOWN_RECIPIENT: "a mail to an address that nobody has",
    Rule.CLICK_NO_COOKIE: "their mail",
    Rule.CLICK_SAME_CONTACT: "their mail, on their cookie",
    Rule.CLICK_OTHER_CONTACT: "their mail, on somebody else's cookie",
    Rule.CLICK_BINDS: "their mail, which bound the cookie to them",
    Rule.CLICK_TEMPORARY: "their mail, perhaps forwarded: the cookie may be somebody else's",
    Rule.IDENTIFY_KNOWN_EMAIL: "the site named their address",
    Rule.IDENTIFY_NEW_CONTACT: "the site named a new address, which made the contact",
    Rule.IDENTIFY_COMPLETES_CONTACT: "the site named the address that the contact had been missing",
    Rule.IDENTIFY_NEW_EMAIL: "the site named another address",
    Rule.IDENTIFY_KNOWN_ID: "the site named their id",
    Rule.IDENTIFY_ID_FOR_OWNER: "the site named an id on their cookie",
    Rule.IDENTIFY_UNKNOWN_ID: "the site named an id that nobody has",
    Rule.IMPORT_KNOWN_EMAIL: "imported with their address",
    Rule.IMPORT_NEW_CONTACT: "the import made the contact",
    Rule.MERGE_MERGED: "the other contact is this one",
    Rule.MERGE_NOTHING: "there were no two contacts to merge",
}
"""The rules of identity.md and timeline.md in words."""


def _entries(client: Client, portal: int, *, contact: str = "", cookie: str = "") -> Iterable[Entry]:
    names = Entry.__struct_fields__
    rows = client.execute(
        f"SELECT {', '.join(_column(name) for name in names)} "
        f"FROM timeline_of(portal = %(portal)s, contact = %(contact)s, cookie = %(cookie)s) "
        f"ORDER BY timeline_of.occurred_at, toUInt128(timeline_of.event_id)",
        {"portal": portal, "contact": contact, "cookie": cookie},
    )
    return (Entry(**dict(zip(names, row, strict=True))) for row in rows)


def _column(name: str) -> str:
    if name in _TIMES:
        return f"toUnixTimestamp64Milli({name})"
    return f"toString({name})" if name in _IDS else name


def _contacts(client: Client, portal: int, condition: str, of: str) -> list[dict[str, Any]]:
    """Contacts of the portal by id or address: of those that are looked up, the ones that fulfil the condition now, or those that they
    were merged into.
    """
    looked_up = (
        "SELECT contact_id FROM contact_addresses WHERE portal_id = %(portal)s AND email = %(of)s" if "@" in of else "toUUID(%(of)s)"
    )
    names = ("contact_id", "email", "former_emails", "external_id")
    rows = client.execute(
        f"SELECT toString(contact_id), email, former_emails, external_id FROM contacts "
        f"WHERE portal_id = %(portal)s AND contact_id IN ("
        f"SELECT ifNull(merged_into, contact_id) FROM contacts WHERE portal_id = %(portal)s AND contact_id IN ({looked_up}) AND {condition}"
        f") ORDER BY created_at, contact_id",
        {"portal": portal, "of": of},
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def _introduced(contact: Mapping[str, Any]) -> str:
    formerly = f", formerly {', '.join(contact['former_emails'])}" if contact["former_emails"] else ""
    external_id = f", id {contact['external_id']}" if contact["external_id"] else ""
    return f"{contact['email'] or 'no address'}{formerly}{external_id}, contact {contact['contact_id']}"


def _valid(value: str | None, option: str, given: str, expected: str) -> str:
    if value is None:
        raise UsageError(f"{option} is {given!r}: expected {expected}")
    return value


def _moment(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
