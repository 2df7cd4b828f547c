"""Contacts: known persons, and the addresses that were theirs (spec: identity.md)."""

import msgspec

from pipeline.core.events import Email, EventId, Millis
from pipeline.core.ids import ContactId


class Contact(msgspec.Struct, frozen=True, gc=False):
    """A known person. `replaced` holds the addresses that were replaced, in that order, each once.

    `merged_into`: the contact that this one turned out to be; then it is as it was at that moment, and owns nothing.
    """

    contact_id: ContactId
    email: Email | None
    replaced: tuple[Email, ...]
    external_id: str | None
    created_at: Millis
    created_by: EventId
    merged_into: ContactId | None = None

    @property
    def former_emails(self) -> tuple[Email, ...]:
        return tuple(email for email in self.replaced if email != self.email)

    @property
    def every_email(self) -> tuple[Email, ...]:
        """The addresses that ever were this contact's, in the order of their replacement, the present one last."""
        return self.replaced if self.email is None else (*self.replaced, self.email)

    @property
    def is_nameless(self) -> bool:
        """Whether nothing is known of this contact but its cookies: a form without an address made it."""
        return self.email is None and self.external_id is None

    def taking(self, email: Email) -> "Contact":
        """The contact with this address; the one that it had is replaced."""
        return msgspec.structs.replace(self, email=email, replaced=tuple(dict.fromkeys(self.every_email)))

    def absorbing(self, other: "Contact") -> "Contact":
        """The contact after `other` was merged into it: the other's addresses are former ones, its id is taken if there was none."""
        replaced = tuple(dict.fromkeys((*self.replaced, *other.every_email)))
        return msgspec.structs.replace(self, replaced=replaced, external_id=self.external_id or other.external_id)
