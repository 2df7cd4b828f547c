"""The rules of identity: the tables of the spec, row by row (identity.md, "Rules, by evidence").

What evidence does is the first row of its kind's table whose condition holds in the situation (`core/identity.py`): the row names the
rule, the contact that results (`Who`), and what happens to the cookie (`Cookie`).
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from pipeline.core.evidence import Evidence, Kind, Rule
from pipeline.core.ids import ContactId


class Who(Enum):
    """The contact that results from evidence."""

    EMAIL_OWNER = auto()
    ID_OWNER = auto()
    COOKIE_OWNER = auto()
    COOKIE_OWNER_TAKES_EMAIL = auto()
    NEW = auto()
    NOBODY = auto()


class Cookie(Enum):
    """What happens to the cookie of the evidence."""

    STAYS = auto()
    BIND = auto()
    BIND_BY_EMAIL = auto()
    TEMPORARY = auto()


class Situation(NamedTuple):
    """What is known when evidence arrives at its place in the fold."""

    evidence: Evidence
    b: ContactId | None
    """The contact that the address identifies; for a click also the contact that held it last."""
    a: ContactId | None
    """The contact that the cookie is bound to."""
    a_has_email: bool
    x: ContactId | None
    """The contact that has the external id."""
    binding_unused: bool
    """For a click: whether this binding of B is still to be had."""
    s: ContactId | None
    """For a merge: the contact that the secondary address identifies."""


class Row(NamedTuple):
    """When a rule holds, and what it does. Policies that change it are in the fold."""

    rule: Rule
    when: Callable[[Situation], object]
    contact: Who
    cookie: Cookie


FORM = (
    Row(Rule.FORM_KNOWN_EMAIL, lambda s: s.b, Who.EMAIL_OWNER, Cookie.BIND),
    Row(
        Rule.FORM_REPLACES_EMAIL,
        lambda s: s.evidence.email and s.a and not s.evidence.create_new,
        Who.COOKIE_OWNER_TAKES_EMAIL,
        Cookie.STAYS,
    ),
    Row(Rule.FORM_NEW_CONTACT, lambda s: s.evidence.email, Who.NEW, Cookie.BIND),
    Row(Rule.FORM_COOKIE_OWNER, lambda s: s.a and not s.evidence.create_new, Who.COOKIE_OWNER, Cookie.STAYS),
    Row(Rule.FORM_NEW_WITHOUT_EMAIL, lambda s: s.evidence.utk or s.evidence.create_new, Who.NEW, Cookie.BIND),
    Row(Rule.FORM_NOBODY, lambda _: True, Who.NOBODY, Cookie.STAYS),
)
CLICK = (
    Row(Rule.CLICK_BOT, lambda s: s.evidence.bot, Who.EMAIL_OWNER, Cookie.STAYS),
    Row(Rule.CLICK_UNKNOWN_RECIPIENT, lambda s: not s.b, Who.NOBODY, Cookie.STAYS),
    Row(Rule.CLICK_NO_COOKIE, lambda s: not s.evidence.utk, Who.EMAIL_OWNER, Cookie.STAYS),
    Row(Rule.CLICK_SAME_CONTACT, lambda s: s.a == s.b, Who.EMAIL_OWNER, Cookie.STAYS),
    Row(Rule.CLICK_OTHER_CONTACT, lambda s: s.a, Who.EMAIL_OWNER, Cookie.STAYS),
    Row(Rule.CLICK_BINDS, lambda s: s.binding_unused, Who.EMAIL_OWNER, Cookie.BIND_BY_EMAIL),
    Row(Rule.CLICK_TEMPORARY, lambda _: True, Who.EMAIL_OWNER, Cookie.TEMPORARY),
)
IDENTIFY = (
    Row(Rule.IDENTIFY_KNOWN_EMAIL, lambda s: s.b, Who.EMAIL_OWNER, Cookie.BIND),
    Row(Rule.IDENTIFY_NEW_CONTACT, lambda s: s.evidence.email and not s.a, Who.NEW, Cookie.BIND),
    Row(Rule.IDENTIFY_COMPLETES_CONTACT, lambda s: s.evidence.email and not s.a_has_email, Who.COOKIE_OWNER_TAKES_EMAIL, Cookie.STAYS),
    Row(Rule.IDENTIFY_NEW_EMAIL, lambda s: s.evidence.email, Who.NEW, Cookie.BIND),
    Row(Rule.IDENTIFY_KNOWN_ID, lambda s: s.x, Who.ID_OWNER, Cookie.BIND),
    Row(Rule.IDENTIFY_ID_FOR_OWNER, lambda s: s.a, Who.COOKIE_OWNER, Cookie.STAYS),
    Row(Rule.IDENTIFY_UNKNOWN_ID, lambda _: True, Who.NOBODY, Cookie.STAYS),
)
IMPORT = (
    Row(Rule.IMPORT_KNOWN_EMAIL, lambda s: s.b, Who.EMAIL_OWNER, Cookie.STAYS),
    Row(Rule.IMPORT_NEW_CONTACT, lambda _: True, Who.NEW, Cookie.STAYS),
)
MERGE = (
    Row(Rule.MERGE_MERGED, lambda s: s.b and s.s and s.b != s.s, Who.EMAIL_OWNER, Cookie.STAYS),
    Row(Rule.MERGE_NOTHING, lambda _: True, Who.NOBODY, Cookie.STAYS),
)
TABLES: dict[Kind, tuple[Row, ...]] = {
    "form_submission": FORM,
    "email_click": CLICK,
    "identify": IDENTIFY,
    "contact_import": IMPORT,
    "contact_merge": MERGE,
}

BY_COOKIE = frozenset({Rule.CLICK_UNKNOWN_RECIPIENT, Rule.CLICK_BOT, Rule.IDENTIFY_UNKNOWN_ID})
"""Evidence that falls back on the owner of its cookie when it resolved to nobody; `form.nobody` does not."""
