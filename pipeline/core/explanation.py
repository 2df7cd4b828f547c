"""Why: the evidence behind contacts, cookies and events, step by step, with what each step did (spec: identity.md).

The fold is done again, one piece of evidence after the other, and its journals say what each changed. A subject's chain is the
steps that concern it: for a cookie those on it, and those that made its owners who they are; for a contact all that resolved to it; for
an event the chain of its cookie and, if it is evidence, also its own and its owner's. Whoever was merged into one of these contacts
counts as that contact. Where evidence was retracted, the retraction stands in the chain at its own time, instead of the evidence.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from pipeline.core.contacts import Contact
from pipeline.core.events import Event, EventId, Millis, PortalId, Retraction, Utk
from pipeline.core.evidence import Evidence, Outcome, evidence_of
from pipeline.core.identity import Fold
from pipeline.core.ids import ContactId
from pipeline.core.links import Link
from pipeline.core.policy import IdentityPolicy
from pipeline.core.retractions import retracted
from pipeline.core.timeline import Owner, owner_of


class Step(NamedTuple):
    """One piece of evidence: what it resolved to then, and what it changed (before, after)."""

    evidence: Evidence
    outcome: Outcome
    contacts: Mapping[ContactId, tuple[Contact | None, Contact]]
    links: Mapping[Utk, tuple[tuple[Link, ...], tuple[Link, ...]]]

    @property
    def key(self) -> tuple[Millis, EventId]:
        return self.evidence.key

    def touches(self, contacts: Collection[ContactId], cookies: Collection[Utk]) -> bool:
        """Whether it changed one of these contacts, or is evidence on one of these cookies."""
        return self.evidence.utk in cookies or any(contact in contacts for contact in self.contacts)

    def concerns(self, contacts: Collection[ContactId]) -> bool:
        """Whether it resolved to one of these contacts, changed it, or gave it a cookie or took one away."""
        links = [link for before, after in self.links.values() for link in (*before, *after)]
        return (
            self.outcome.contact_id in contacts
            or any(contact in contacts for contact in self.contacts)
            or any(link.contact_id in contacts for link in links)
        )


class Withdrawal(NamedTuple):
    """A retraction that acts: `event` does not count any more. `about`: what it comes to in the end, if `event` is a retraction, too."""

    retraction: Retraction
    event: Event
    about: Event

    @property
    def key(self) -> tuple[Millis, EventId]:
        return self.retraction.occurred_at, self.retraction.event_id

    def names(self, cookies: Collection[Utk], addresses: Collection[str | None]) -> bool:
        """Whether it is about evidence with one of these cookies or addresses."""
        about = evidence_of(self.about)
        return about is not None and (about.utk in cookies or any(e and e in addresses for e in (about.email, about.secondary)))


class Story(NamedTuple):
    """All that happened in a portal, and where it ended."""

    fold: Fold
    steps: list[Step]
    withdrawals: list[Withdrawal]

    def withdrawn(self, event: Event) -> Withdrawal | None:
        """What took the event back, if anything did."""
        return next((w for w in self.withdrawals if w.event.event_id == event.event_id), None)

    def of_cookie(self, utk: Utk) -> list[Step | Withdrawal]:
        owners = self._with_merged(self._owners_of(utk))
        return self._in_order((step for step in self.steps if step.touches(owners, {utk})), lambda w: w.names({utk}, ()))

    def of_contact(self, contact: ContactId) -> list[Step | Withdrawal]:
        same = self._with_merged({contact}) & self.fold.contacts.keys()
        cookies = {utk for utk, links in self.fold.links.items() for link in links if link.contact_id == contact}
        addresses = {email for id_ in same for email in (self.fold.contacts[id_].email, *self.fold.contacts[id_].replaced)}
        return self._in_order((step for step in self.steps if step.concerns(same)), lambda w: w.names(cookies, addresses))

    def of_event(self, event: Event) -> tuple[Owner, list[Step | Withdrawal]]:
        """Whose the event is, and why."""
        owner = owner_of(event, self.fold)
        cookies = {event.utk} if event.utk is not None else set()
        named = {contact for contact in (owner.contact_id, owner.temporary_contact_id) if contact is not None}
        owners = self._with_merged(named.union(*map(self._owners_of, cookies)))
        steps = (step for step in self.steps if step.evidence.event_id == event.event_id or step.touches(owners, cookies))
        return owner, self._in_order(
            steps, lambda w: event.event_id in (w.retraction.event_id, w.event.event_id, w.about.event_id) or w.names(cookies, ())
        )

    def _owners_of(self, utk: Utk) -> set[ContactId]:
        """Whose the cookie is or was, as it is known now."""
        return {link.contact_id for link in self.fold.links.get(utk, ())}

    def _with_merged(self, contacts: set[ContactId]) -> set[ContactId]:
        """These contacts, and all that were ever merged into one of them."""
        return contacts | {id_ for step in self.steps for id_, (_, after) in step.contacts.items() if after.merged_into in contacts}

    def _in_order(self, steps: Iterable[Step], is_told: Callable[[Withdrawal], bool]) -> list[Step | Withdrawal]:
        return sorted([*steps, *filter(is_told, self.withdrawals)], key=lambda step: step.key)


def story(portal: PortalId, events: Iterable[Event], policy: IdentityPolicy) -> Story:
    """The fold over the evidence among these events of a portal (one per id, in any order), step by step."""
    known = {event.event_id: event for event in events}
    gone = {event_id: by for (_, event_id), by in retracted(known.values()).items()}
    fold = Fold(portal, policy)
    steps = []
    counting = (found for id_, event in known.items() if id_ not in gone and (found := evidence_of(event)))
    for evidence in sorted(counting, key=lambda found: found.key):
        fold.clear_journals()
        fold.apply(evidence)
        contacts = {id_: (before, fold.contacts[id_]) for id_, before in fold.contacts_before.items()}
        links = {utk: (before or (), fold.links.get(utk, ())) for utk, before in fold.links_before.items()}
        steps.append(Step(evidence, fold.outcomes[evidence.event_id], contacts, links))
    return Story(fold, steps, [_withdrawal(known, event_id, by) for event_id, by in gone.items()])


def _withdrawal(known: Mapping[EventId, Event], event_id: EventId, by: EventId) -> Withdrawal:
    retraction, about, seen = known[by], known[event_id], {by}
    assert isinstance(retraction, Retraction)
    while isinstance(about, Retraction) and about.retracts in known and about.event_id not in seen:
        seen.add(about.event_id)
        about = known[about.retracts]
    return Withdrawal(retraction, known[event_id], about)
