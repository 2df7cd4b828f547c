"""Evidence: what events say about who is who, and what came of it (spec: identity.md, "Rules, by evidence")."""

from enum import StrEnum
from typing import Literal

import msgspec

from pipeline.core.events import (
    ContactImport,
    ContactMerge,
    Email,
    EmailClick,
    Event,
    EventId,
    FormSubmission,
    Identify,
    Millis,
    Utk,
)
from pipeline.core.ids import ContactId

Kind = Literal["form_submission", "email_click", "identify", "contact_import", "contact_merge"]


class Rule(StrEnum):
    """Why evidence did what it did."""

    FORM_KNOWN_EMAIL = "form.known_email"
    FORM_REPLACES_EMAIL = "form.replaces_email"
    FORM_NEW_CONTACT = "form.new_contact"
    FORM_COOKIE_OWNER = "form.cookie_owner"
    FORM_NEW_WITHOUT_EMAIL = "form.new_without_email"
    FORM_NOBODY = "form.nobody"
    CLICK_BOT = "click.bot"
    CLICK_UNKNOWN_RECIPIENT = "click.unknown_recipient"
    CLICK_NO_COOKIE = "click.no_cookie"
    CLICK_SAME_CONTACT = "click.same_contact"
    CLICK_OTHER_CONTACT = "click.other_contact"
    CLICK_BINDS = "click.binds"
    CLICK_TEMPORARY = "click.temporary"
    IDENTIFY_KNOWN_EMAIL = "identify.known_email"
    IDENTIFY_NEW_CONTACT = "identify.new_contact"
    IDENTIFY_COMPLETES_CONTACT = "identify.completes_contact"
    IDENTIFY_NEW_EMAIL = "identify.new_email"
    IDENTIFY_KNOWN_ID = "identify.known_id"
    IDENTIFY_ID_FOR_OWNER = "identify.id_for_owner"
    IDENTIFY_UNKNOWN_ID = "identify.unknown_id"
    IMPORT_KNOWN_EMAIL = "import.known_email"
    IMPORT_NEW_CONTACT = "import.new_contact"
    MERGE_MERGED = "merge.merged"
    MERGE_NOTHING = "merge.nothing"


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """What identity sees of an event.

    `utk` is None as well where the cookie must not be used; `email` is a click's recipient, or the primary address of a merge.
    """

    at: Millis
    event_id: EventId
    kind: Kind
    utk: Utk | None
    email: Email | None
    external_id: str | None = None
    send_id: str | None = None
    bot: bool = False
    create_new: bool = False
    secondary: Email | None = None

    @property
    def key(self) -> tuple[Millis, EventId]:
        """The place of this evidence in the fold."""
        return self.at, self.event_id

    @property
    def seed(self) -> str:
        """What the id of a contact is made from, if this evidence makes one."""
        return self.email or (f"utk:{self.utk}" if self.utk else f"event:{self.event_id}")


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What evidence resolved to. `by_cookie`: to nobody by itself, so it belongs to the owner of its cookie, like a page view."""

    contact_id: ContactId | None
    rule: Rule
    by_cookie: bool


def evidence_of(event: Event) -> Evidence | None:
    """What identity sees of an event, None if it is no evidence."""
    match event:
        case FormSubmission():
            utk = event.utk if event.use_cookie else None
            return Evidence(event.occurred_at, event.event_id, "form_submission", utk, event.email, create_new=event.create_new_contact)
        case EmailClick():
            return Evidence(
                event.occurred_at, event.event_id, "email_click", event.utk, event.recipient_email, send_id=event.send_id, bot=event.bot
            )
        case Identify():
            return Evidence(event.occurred_at, event.event_id, "identify", event.utk, event.email, event.external_id)
        case ContactImport():
            return Evidence(event.occurred_at, event.event_id, "contact_import", None, event.email, event.external_id)
        case ContactMerge():
            return Evidence(event.occurred_at, event.event_id, "contact_merge", None, event.primary, secondary=event.secondary)
    return None
