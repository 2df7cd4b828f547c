"""Why: the evidence behind contacts, cookies and events, step by step, with what each step did (spec: identity.md).

The fold is done again, one piece of evidence after the other, and its journals say what each changed. A subject's chain is the
steps that concern it: for a cookie those on it, and those that made its owners who they are; for a contact all that resolved to it;
for an event the chain of its cookie or, if it is evidence, also its own.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from pipeline.core.events import Event, PortalId, Utk
from pipeline.core.identity import Contact, Evidence, Fold, Link, Outcome, evidence_of
from pipeline.core.ids import ContactId
from pipeline.core.policy import IdentityPolicy
from pipeline.core.timeline import Owner, owner_of


class Step(NamedTuple):
    """One piece of evidence: what it resolved to, and what it changed (before, after)."""

    evidence: Evidence
    outcome: Outcome
    contacts: Mapping[ContactId, tuple[Contact | None, Contact]]
    links: Mapping[Utk, tuple[tuple[Link, ...], tuple[Link, ...]]]

    def touches(self, contacts: Collection[ContactId], cookies: Collection[Utk]) -> bool:
        """Whether it changed one of these contacts, or is evidence on one of these cookies."""
        return self.evidence.utk in cookies or any(contact in contacts for contact in self.contacts)

    def concerns(self, contact: ContactId) -> bool:
        """Whether it resolved to the contact, changed it, or gave it a cookie or took one away."""
        links = [link for before, after in self.links.values() for link in (*before, *after)]
        return self.outcome.contact_id == contact or contact in self.contacts or any(link.contact_id == contact for link in links)


class Story(NamedTuple):
    """All that happened in a portal, and where it ended."""

    fold: Fold
    steps: list[Step]

    def of_cookie(self, utk: Utk) -> list[Step]:
        owners = {link.contact_id for link in self.fold.links.get(utk, ())}
        return [step for step in self.steps if step.touches(owners, {utk})]

    def of_contact(self, contact: ContactId) -> list[Step]:
        return [step for step in self.steps if step.concerns(contact)]

    def of_event(self, event: Event) -> tuple[Owner, list[Step]]:
        """Whose the event is, and why."""
        owner = owner_of(event, self.fold)
        owners = {contact for contact in (owner.contact_id, owner.temporary_contact_id) if contact is not None}
        cookies = {event.utk} if event.utk is not None else set()
        return owner, [step for step in self.steps if step.evidence.event_id == event.event_id or step.touches(owners, cookies)]


def story(portal: PortalId, events: Iterable[Event], policy: IdentityPolicy) -> Story:
    """The fold over the evidence among these events of a portal (one per id, in any order), step by step."""
    fold = Fold(portal, policy)
    steps = []
    for evidence in sorted((found for event in events if (found := evidence_of(event))), key=lambda found: found.key):
        fold.clear_journals()
        fold.apply(evidence)
        contacts = {id_: (before, fold.contacts[id_]) for id_, before in fold.contacts_before.items()}
        links = {utk: (before or (), fold.links.get(utk, ())) for utk, before in fold.links_before.items()}
        steps.append(Step(evidence, fold.outcomes[evidence.event_id], contacts, links))
    return Story(fold, steps)
