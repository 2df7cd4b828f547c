"""Identity: contacts, and who owned a cookie when (spec: identity.md).

Evidence is folded in the order (`occurred_at`, `event_id`). What one piece of evidence does is decided in two steps:

1. a *situation* is looked up: e = the evidence's address, B = the contact that e identifies (for a click: R, which also finds the
   last holder), A = the contact that the cookie is bound to;
2. the first row of the evidence's table whose condition holds names the rule, the contact that results (`Who`) and what
   happens to the cookie (`Cookie`). The tables below are those of the spec, row by row; policies are the few branches in `Fold`.

Everything that is known lies in the fold's maps: addresses, external ids and cookies to contacts, the contacts, and the links of
each cookie. Evidence touches only the entries of its own address, id and cookie, and contacts made through them. So evidence that
shares none of them, directly or through others, is independent: what `identity_live.py` builds on.
"""

from collections.abc import Callable, Iterable
from enum import Enum, StrEnum, auto
from typing import Literal, NamedTuple, TypeVar

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
    PortalId,
    Utk,
)
from pipeline.core.ids import ContactId, contact_id
from pipeline.core.policy import (
    AnonymousContact,
    CreateNewBindsCookie,
    EmailBindingScope,
    IdentifyNewEmail,
    IdentityPolicy,
    Rebind,
    ReplacedEmail,
)

Kind = Literal["form_submission", "email_click", "identify", "contact_import", "contact_merge"]
Status = Literal["bound", "temporary"]


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


class Link(msgspec.Struct, frozen=True, gc=False):
    """A stretch of ownership of a cookie: `valid_from` (None: the beginning of time) <= t < `valid_to` (None: open)."""

    contact_id: ContactId
    status: Status
    valid_from: Millis | None
    valid_to: Millis | None
    rule: Rule
    evidence: EventId


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What evidence resolved to. `by_cookie`: to nobody by itself, so it belongs to the owner of its cookie, like a page view."""

    contact_id: ContactId | None
    rule: Rule
    by_cookie: bool


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


K = TypeVar("K")
V = TypeVar("V")


class Journal(dict[K, V | None]):
    """For each key that was touched, the value it had before the first touch (None: there was none)."""

    def note(self, key: K, now: V | None) -> None:
        if key not in self:
            self[key] = now


class Fold:
    """The state of the fold over one portal's evidence.

    `apply` takes evidence in order. `contacts`, `links` and `outcomes` are the result; their journals hold what was there before, so that
    a caller can tell what a batch changed.
    """

    def __init__(self, portal: PortalId, policy: IdentityPolicy) -> None:
        self.portal = portal
        self.policy = policy
        self.contacts: dict[ContactId, Contact] = {}
        self.links: dict[Utk, tuple[Link, ...]] = {}
        self.outcomes: dict[EventId, Outcome] = {}
        self.contacts_before: Journal[ContactId, Contact] = Journal()
        self.links_before: Journal[Utk, tuple[Link, ...]] = Journal()
        self.outcomes_before: Journal[EventId, Outcome] = Journal()
        self._owner_of_email: dict[Email, ContactId] = {}
        self._last_holder: dict[Email, ContactId] = {}
        self._owner_of_id: dict[str, ContactId] = {}
        self._created_with_seed: dict[str, list[ContactId]] = {}
        self._used_bindings: dict[ContactId, set[str | None]] = {}
        self._cookies_of: dict[ContactId, list[Utk]] = {}
        """Every cookie that was ever linked to the contact, and below all that ever resolved to it: what a merge has to look at."""
        self._evidence_of: dict[ContactId, list[EventId]] = {}
        self._merged: dict[ContactId, list[ContactId]] = {}
        """The contacts that were merged into this one."""

    def apply(self, evidence: Evidence) -> None:
        """Take the next piece of evidence."""
        situation = self._situation(evidence)
        row = next(row for row in TABLES[evidence.kind] if row.when(situation))
        who, cookie = row.contact, row.cookie
        if row.rule is Rule.IDENTIFY_NEW_EMAIL and self.policy.identify_new_email is IdentifyNewEmail.OVERWRITE:
            who, cookie = Who.COOKIE_OWNER_TAKES_EMAIL, Cookie.STAYS
        contact = self._contact(who, situation)
        if contact is not None:
            if situation.s is not None:
                self._merge(situation.s, contact)
            self._take_external_id(contact, evidence)
            if self._may_use_cookie(situation):
                self._use_cookie(cookie, contact, evidence, row.rule)
            self._evidence_of.setdefault(contact, []).append(evidence.event_id)
        self._set_outcome(evidence.event_id, Outcome(contact, row.rule, contact is None and row.rule in BY_COOKIE))

    def forget(self, members: Iterable[Evidence]) -> None:
        """Take back all that these pieces of evidence did. They must be closed: share no address, id or cookie with others."""
        for evidence in members:
            if (outcome := self.outcomes.pop(evidence.event_id, None)) is not None:
                self.outcomes_before.note(evidence.event_id, outcome)
            for seed in _seeds(evidence):
                for contact in self._created_with_seed.pop(seed, ()):
                    self.contacts_before.note(contact, self.contacts.pop(contact))
                    for of_contact in (self._used_bindings, self._cookies_of, self._evidence_of, self._merged):
                        of_contact.pop(contact, None)
            if evidence.email is not None:
                self._owner_of_email.pop(evidence.email, None)
                self._last_holder.pop(evidence.email, None)
            if evidence.external_id is not None:
                self._owner_of_id.pop(evidence.external_id, None)
            if evidence.utk is not None and (links := self.links.pop(evidence.utk, None)) is not None:
                self.links_before.note(evidence.utk, links)

    def clear_journals(self) -> None:
        """Begin a new batch: what is there now is what was there before."""
        self.contacts_before.clear()
        self.links_before.clear()
        self.outcomes_before.clear()

    def _situation(self, evidence: Evidence) -> Situation:
        b = x = a = s = None
        binding_unused = False
        if evidence.email is not None:
            b = self._owner_of_email.get(evidence.email)
        if evidence.external_id is not None:
            x = self._owner_of_id.get(evidence.external_id)
        if evidence.utk is not None:
            a = self._owner_of_cookie(evidence.utk)
        if evidence.kind == "email_click":
            assert evidence.email is not None
            b = b or self._last_holder.get(evidence.email)
            binding_unused = b is not None and self._binding(evidence) not in self._used_bindings.get(b, ())
        if evidence.secondary is not None:
            s = self._owner_of_email.get(evidence.secondary)
        return Situation(evidence, b, a, a is not None and self.contacts[a].email is not None, x, binding_unused, s)

    def _owner_of_cookie(self, utk: Utk) -> ContactId | None:
        links = self.links.get(utk)
        return links[-1].contact_id if links and links[-1].status == "bound" else None

    def _contact(self, who: Who, situation: Situation) -> ContactId | None:
        match who:
            case Who.EMAIL_OWNER:
                return situation.b
            case Who.ID_OWNER:
                return situation.x
            case Who.COOKIE_OWNER:
                return situation.a
            case Who.COOKIE_OWNER_TAKES_EMAIL:
                assert situation.a is not None
                assert situation.evidence.email is not None
                self._take_email(situation.a, situation.evidence.email)
                return situation.a
            case Who.NEW:
                return self._create(situation.evidence)
            case Who.NOBODY:
                return None

    def _create(self, evidence: Evidence) -> ContactId:
        seed = evidence.email or (f"utk:{evidence.utk}" if evidence.utk else f"event:{evidence.event_id}")
        siblings = self._created_with_seed.setdefault(seed, [])
        new = contact_id(self.portal, seed, len(siblings))
        siblings.append(new)
        self._set_contact(Contact(new, evidence.email, (), None, evidence.at, evidence.event_id))
        if evidence.email is not None:
            self._owner_of_email[evidence.email] = self._last_holder[evidence.email] = new
        return new

    def _take_email(self, owner: ContactId, email: Email) -> None:
        contact = self.contacts[owner]
        replaced = contact.replaced
        if contact.email is not None:
            if contact.email not in replaced:
                replaced = (*replaced, contact.email)
            if self.policy.replaced_email is ReplacedEmail.RELEASE:
                del self._owner_of_email[contact.email]
        self._set_contact(msgspec.structs.replace(contact, email=email, replaced=replaced))
        self._owner_of_email[email] = self._last_holder[email] = owner

    def _take_external_id(self, owner: ContactId, evidence: Evidence) -> None:
        external_id, contact = evidence.external_id, self.contacts[owner]
        if external_id is not None and contact.external_id is None and external_id not in self._owner_of_id:
            self._owner_of_id[external_id] = owner
            self._set_contact(msgspec.structs.replace(contact, external_id=external_id))

    def _set_contact(self, contact: Contact) -> None:
        self.contacts_before.note(contact.contact_id, self.contacts.get(contact.contact_id))
        self.contacts[contact.contact_id] = contact

    def _set_outcome(self, event_id: EventId, outcome: Outcome) -> None:
        self.outcomes_before.note(event_id, self.outcomes.get(event_id))
        self.outcomes[event_id] = outcome

    def _set_links(self, utk: Utk, links: tuple[Link, ...]) -> None:
        self.links_before.note(utk, self.links.get(utk))
        self.links[utk] = links

    def _may_use_cookie(self, situation: Situation) -> bool:
        """Policy `create_new_binds_cookie` rules the cookie of a submission that makes a contact on purpose (a kiosk)."""
        if not situation.evidence.create_new:
            return True
        match self.policy.create_new_binds_cookie:
            case CreateNewBindsCookie.ALWAYS:
                return True
            case CreateNewBindsCookie.NEVER:
                return False
            case CreateNewBindsCookie.IF_UNBOUND:
                return situation.a is None

    def _use_cookie(self, use: Cookie, contact: ContactId, evidence: Evidence, rule: Rule) -> None:
        utk = evidence.utk
        if utk is None or use is Cookie.STAYS:
            return
        if use is Cookie.BIND_BY_EMAIL:
            self._used_bindings.setdefault(contact, set()).add(self._binding(evidence))
        if use is Cookie.BIND:
            self._absorb_nameless(utk, contact)
        links = self.links.get(utk, ())
        new = Link(contact, "temporary" if use is Cookie.TEMPORARY else "bound", evidence.at, None, rule, evidence.event_id)
        links_now = _follow(links, new) if use is Cookie.TEMPORARY else self._bind(links, new)
        if links_now is not links:
            self._cookies_of.setdefault(contact, []).append(utk)
            self._set_links(utk, links_now)

    def _absorb_nameless(self, utk: Utk, contact: ContactId) -> None:
        """Policy `anonymous_contact`: a cookie's owner of whom nothing is known but that cookie turns out to be this contact."""
        owner = self._owner_of_cookie(utk)
        if owner is None or owner == contact or self.policy.anonymous_contact is AnonymousContact.KEEP:
            return
        nameless = self.contacts[owner]
        if nameless.email is None and nameless.external_id is None:
            self._merge(owner, contact)

    def _merge(self, gone: ContactId, into: ContactId) -> None:
        """From now on `gone` is `into`: whatever identified it, and all that it has, is the other's."""
        merged = [gone, *self._merged.pop(gone, ())]
        self._merge_names(gone, into, merged)
        self._used_bindings.setdefault(into, set()).update(self._used_bindings.pop(gone, ()))
        for utk in dict.fromkeys(cookies := self._cookies_of.pop(gone, [])):
            links = self.links[utk]
            if any(link.contact_id == gone for link in links):
                moved = (msgspec.structs.replace(link, contact_id=into) if link.contact_id == gone else link for link in links)
                self._set_links(utk, tuple(moved))
        for event_id in (evidence := self._evidence_of.pop(gone, [])):
            self._set_outcome(event_id, msgspec.structs.replace(self.outcomes[event_id], contact_id=into))
        self._cookies_of.setdefault(into, []).extend(cookies)
        self._evidence_of.setdefault(into, []).extend(evidence)
        self._merged.setdefault(into, []).extend(merged)
        for contact in merged:
            self._set_contact(msgspec.structs.replace(self.contacts[contact], merged_into=into))

    def _merge_names(self, gone: ContactId, into: ContactId, merged: Iterable[ContactId]) -> None:
        """Addresses and external ids that identify `gone` (and those merged into it before) identify `into`."""
        old, new = self.contacts[gone], self.contacts[into]
        emails = old.replaced if old.email is None else (*old.replaced, old.email)
        for email in emails:
            for of_email in (self._owner_of_email, self._last_holder):
                if of_email.get(email) == gone:
                    of_email[email] = into
        for contact in merged:
            external_id = self.contacts[contact].external_id
            if external_id is not None:
                self._owner_of_id[external_id] = into
        replaced = tuple(dict.fromkeys((*new.replaced, *emails)))
        self._set_contact(msgspec.structs.replace(new, replaced=replaced, external_id=new.external_id or old.external_id))

    def _bind(self, links: tuple[Link, ...], new: Link) -> tuple[Link, ...]:
        """The links of a cookie after Bind; the same object if nothing changes."""
        claims_history = msgspec.structs.replace(new, valid_from=None)
        if not links or links[-1].status == "temporary":
            return (claims_history,)
        if links[-1].contact_id == new.contact_id:
            return links
        match self.policy.rebind:
            case Rebind.FROM_NOW:
                return _follow(links, new)
            case Rebind.KEEP_OWNER:
                return links
            case Rebind.MOVE_ALL:
                return (claims_history,)

    def _binding(self, click: Evidence) -> str | None:
        """What a click uses up of its recipient: the one binding (None), the binding of the mailing, or nothing that is ever used up."""
        match self.policy.email_binding_scope:
            case EmailBindingScope.CONTACT:
                return None
            case EmailBindingScope.CONTACT_AND_SEND:
                return click.send_id
            case EmailBindingScope.COOKIE:
                return click.event_id


def _follow(links: tuple[Link, ...], new: Link) -> tuple[Link, ...]:
    """The links after `new` has followed the open one; the same object if that is its contact's already."""
    if not links:
        return (new,)
    last = links[-1]
    if last.contact_id == new.contact_id:
        return links
    if last.valid_from is not None and last.valid_from == new.valid_from:
        return (*links[:-1], new)
    return (*links[:-1], msgspec.structs.replace(last, valid_to=new.valid_from), new)


def _seeds(evidence: Evidence) -> Iterable[str]:
    """Every seed that this evidence could have made a contact from."""
    if evidence.email is not None:
        yield evidence.email
    if evidence.utk is not None:
        yield f"utk:{evidence.utk}"
    yield f"event:{evidence.event_id}"


def fold(portal: PortalId, evidence: Iterable[Evidence], policy: IdentityPolicy) -> Fold:
    """The plain form: the fold over a set of evidence of one portal, given in any order."""
    state = Fold(portal, policy)
    for item in sorted(evidence, key=lambda e: e.key):
        state.apply(item)
    return state
