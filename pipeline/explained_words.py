"""What `explain` prints for people."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from pipeline.core.contacts import Contact
from pipeline.core.events import Event
from pipeline.core.explanation import Step, Withdrawal
from pipeline.core.ids import ContactId
from pipeline.core.links import Link
from pipeline.core.timeline import Owner
from pipeline.explain import Explained, Explanation
from pipeline.timelines import RULES


def in_words(shown: Explanation) -> Iterator[str]:
    """Line by line."""
    yield from _told(shown, shown.now)
    if shown.otherwise is not None:
        yield ""
        yield f"With {', '.join(shown.overrides)}:"
        if list(_told(shown, shown.otherwise)) == list(_told(shown, shown.now)):
            yield "  the same"
        else:
            yield from (f"  {line}" for line in _told(shown, shown.otherwise))


def _told(shown: Explanation, explained: Explained) -> Iterator[str]:
    name = _Names(explained.contacts)
    if shown.event is not None and explained.owner is not None:
        yield _belongs(shown.event, explained.owner, name)
    elif shown.event is not None and explained.withdrawn is not None:
        yield f"{_event(shown.event)} does not count: it was retracted{_by(explained.withdrawn)}"
    elif shown.subject.contact is not None:
        contact = explained.contact
        yield f"contact {shown.subject.contact}: {name.of(contact.contact_id) if contact else 'there is none'}"
        if contact and contact.merged_into:
            yield f"  merged into {name.of(contact.merged_into)}, who has all that it had"
    else:
        yield f"cookie {shown.subject.utk}"
    for utk, link in explained.links:
        whose = f"{'' if link.status == 'bound' else 'possibly '}{name.of(link.contact_id)}'s"
        yield f"  {_span(link)}: cookie {utk} is {whose} ({link.rule}, by {link.evidence})"
    if not explained.links:
        yield "  no cookie is anybody's here" if shown.subject.contact else "  the cookie is nobody's"
    if explained.steps:
        yield "What made it so, in order:"
    for step in explained.steps:
        if isinstance(step, Withdrawal):
            yield f"  {_moment(step.retraction.occurred_at)}  retraction {step.retraction.event_id}: {_event(step.event)} never happened"
            continue
        evidence, rule = step.evidence, step.outcome.rule
        yield f"  {_moment(evidence.at)}  {evidence.kind} {evidence.event_id}: {RULES[rule]} ({rule})"
        yield from (f"    {change}" for change in _changes(step, name))


def _event(event: Event) -> str:
    return f"{event.type} {event.event_id} of {_moment(event.occurred_at)}"


def _by(withdrawn: Withdrawal) -> str:
    return f" at {_moment(withdrawn.retraction.occurred_at)}, by {withdrawn.retraction.event_id}"


def _belongs(event: Event, owner: Owner, name: "_Names") -> str:
    whose = "nobody's"
    if owner.contact_id is not None:
        whose = f"{name.of(owner.contact_id)}'s"
    elif owner.temporary_contact_id is not None:
        whose = f"possibly {name.of(owner.temporary_contact_id)}'s"
    evidence = f", by {owner.evidence}" if owner.evidence else ""
    return f"{_event(event)} is {whose}: {RULES[owner.rule]} ({owner.rule}){evidence}"


def _changes(step: Step, name: "_Names") -> Iterator[str]:
    for before, after in step.contacts.values():
        yield from _change_of_contact(before, after, name)
    for utk, (links_before, links_after) in step.links.items():
        for link in links_after:
            if link not in links_before and link.evidence == step.evidence.event_id:
                yield f"{'bound' if link.status == 'bound' else 'lent'} cookie {utk} to {name.of(link.contact_id)}, {_span(link)}"
        kept = {link.evidence for link in links_after}
        for link in links_before:
            if link.evidence not in kept:
                yield f"took cookie {utk} from {name.of(link.contact_id)}, {_span(link)}"
    if not step.contacts and not step.links:
        yield "changed nothing"


def _change_of_contact(before: Contact | None, after: Contact, name: "_Names") -> Iterator[str]:
    if after.merged_into and (before is None or before.merged_into != after.merged_into):
        yield f"merged {name.of(after.contact_id)} into {name.of(after.merged_into)}"
        return
    if before is None:
        yield f"made the contact {after.contact_id}" + (f" with the address {after.email}" if after.email else "")
    elif before.email != after.email:
        yield f"gave contact {after.contact_id} the address {after.email}" + (f" instead of {before.email}" if before.email else "")
    if after.external_id and (before is None or before.external_id != after.external_id):
        yield f"gave contact {after.contact_id} the id {after.external_id}"


class _Names:
    """Contacts as people know them."""

    def __init__(self, contacts: Mapping[ContactId, Contact]) -> None:
        self._contacts = contacts

    def of(self, contact: ContactId) -> str:
        found = self._contacts.get(contact)
        return f"{found.email} ({contact})" if found and found.email else f"contact {contact}"


def _span(link: Link) -> str:
    since = "from the beginning" if link.valid_from is None else f"from {_moment(link.valid_from)}"
    return since if link.valid_to is None else f"{since} to {_moment(link.valid_to)}"


def _moment(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
