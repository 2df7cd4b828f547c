"""Identity: contacts, and who owned a cookie when (spec: identity.md).

Evidence is folded in the order (`occurred_at`, `event_id`). What one piece of evidence does is decided in two steps:

1. a *situation* is looked up: e = the evidence's address, B = the contact that e identifies (for a click: R, which also finds the
   last holder), A = the contact that the cookie is bound to;
2. the first row of the evidence's table (`identity_rules.py`) whose condition holds names the rule, the contact that results (`Who`) and
   what happens to the cookie (`Cookie`). The tables are those of the spec, row by row; policies are the few branches in `Fold`.

What is folded and what comes of it: `evidence.py`, `contacts.py`, `links.py`, where Bind is.

Everything that is known lies in the fold's maps: addresses, external ids and cookies to contacts, the contacts, and the links of
each cookie. Evidence touches only the entries of its own address, id and cookie, and contacts made through them. So evidence that
shares none of them, directly or through others, is independent: what `identity_live.py` builds on.
"""

from collections.abc import Iterable

import msgspec

from pipeline.core.contacts import Contact
from pipeline.core.events import Email, EventId, PortalId, Utk
from pipeline.core.evidence import Evidence, Outcome, Rule
from pipeline.core.identity_rules import BY_COOKIE, TABLES, Cookie, Situation, Who
from pipeline.core.ids import ContactId, contact_id
from pipeline.core.journal import Journal
from pipeline.core.links import Link, bind, bound_to, follow, handed_over
from pipeline.core.policy import (
    AnonymousContact,
    CreateNewBindsCookie,
    EmailBindingScope,
    IdentifyNewEmail,
    IdentityPolicy,
    ReplacedEmail,
)


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
            for contact in self._created_with_seed.pop(evidence.seed, ()):
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
            a = bound_to(self.links.get(evidence.utk, ()))
        if evidence.kind == "email_click":
            assert evidence.email is not None
            b = b or self._last_holder.get(evidence.email)
            binding_unused = b is not None and self._binding(evidence) not in self._used_bindings.get(b, ())
        if evidence.secondary is not None:
            s = self._owner_of_email.get(evidence.secondary)
        return Situation(evidence, b, a, a is not None and self.contacts[a].email is not None, x, binding_unused, s)

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
        siblings = self._created_with_seed.setdefault(evidence.seed, [])
        new = contact_id(self.portal, evidence.seed, len(siblings))
        siblings.append(new)
        self._set_contact(Contact(new, evidence.email, (), None, evidence.at, evidence.event_id))
        if evidence.email is not None:
            self._owner_of_email[evidence.email] = self._last_holder[evidence.email] = new
        return new

    def _take_email(self, owner: ContactId, email: Email) -> None:
        contact = self.contacts[owner]
        if contact.email is not None and self.policy.replaced_email is ReplacedEmail.RELEASE:
            del self._owner_of_email[contact.email]
        self._set_contact(contact.taking(email))
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
        links_now = follow(links, new) if use is Cookie.TEMPORARY else bind(links, new, self.policy.rebind)
        if links_now is not links:
            self._cookies_of.setdefault(contact, []).append(utk)
            self._set_links(utk, links_now)

    def _absorb_nameless(self, utk: Utk, contact: ContactId) -> None:
        """Policy `anonymous_contact`: a cookie's owner of whom nothing is known but that cookie turns out to be this contact."""
        owner = bound_to(self.links.get(utk, ()))
        if owner is None or owner == contact or self.policy.anonymous_contact is AnonymousContact.KEEP:
            return
        if self.contacts[owner].is_nameless:
            self._merge(owner, contact)

    def _merge(self, gone: ContactId, into: ContactId) -> None:
        """From now on `gone` is `into`: whatever identified it, and all that it has, is the other's."""
        merged = [gone, *self._merged.pop(gone, ())]
        self._merge_names(gone, into, merged)
        self._used_bindings.setdefault(into, set()).update(self._used_bindings.pop(gone, ()))
        for utk in dict.fromkeys(cookies := self._cookies_of.pop(gone, [])):
            if (links := handed_over(self.links[utk], gone, into)) is not self.links[utk]:
                self._set_links(utk, links)
        for event_id in (evidence := self._evidence_of.pop(gone, [])):
            self._set_outcome(event_id, msgspec.structs.replace(self.outcomes[event_id], contact_id=into))
        self._cookies_of.setdefault(into, []).extend(cookies)
        self._evidence_of.setdefault(into, []).extend(evidence)
        self._merged.setdefault(into, []).extend(merged)
        for contact in merged:
            self._set_contact(msgspec.structs.replace(self.contacts[contact], merged_into=into))

    def _merge_names(self, gone: ContactId, into: ContactId, merged: Iterable[ContactId]) -> None:
        """Addresses and external ids that identify `gone` (and those merged into it before) identify `into`."""
        old = self.contacts[gone]
        for email in old.every_email:
            for of_email in (self._owner_of_email, self._last_holder):
                if of_email.get(email) == gone:
                    of_email[email] = into
        for contact in merged:
            external_id = self.contacts[contact].external_id
            if external_id is not None:
                self._owner_of_id[external_id] = into
        self._set_contact(self.contacts[into].absorbing(old))

    def _binding(self, click: Evidence) -> str | None:
        """What a click uses up of its recipient: the one binding (None), the binding of the mailing, or nothing that is ever used up."""
        match self.policy.email_binding_scope:
            case EmailBindingScope.CONTACT:
                return None
            case EmailBindingScope.CONTACT_AND_SEND:
                return click.send_id
            case EmailBindingScope.COOKIE:
                return click.event_id


def fold(portal: PortalId, evidence: Iterable[Evidence], policy: IdentityPolicy) -> Fold:
    """The plain form: the fold over a set of evidence of one portal, given in any order."""
    state = Fold(portal, policy)
    for item in sorted(evidence, key=lambda e: e.key):
        state.apply(item)
    return state
