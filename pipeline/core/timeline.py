"""Who owns an event, and through what (spec: timeline.md, "Who owns an event?").

Evidence belongs to the contact that it resolved to. Everything else, and evidence that falls back on its cookie, belongs to the contact
whose link covers its time: as its own if the link is bound, as a possibility if it is temporary.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.core.events import Event, EventId, Millis, Utk
from pipeline.core.identity import Fold
from pipeline.core.ids import ContactId
from pipeline.core.links import Link


class Owner(NamedTuple):
    """Whose an event is, for certain or possibly, and by which rule; `evidence` made the link (None: its own, or nobody's)."""

    contact_id: ContactId | None
    temporary_contact_id: ContactId | None
    rule: str
    evidence: EventId | None


COOKIE_BOUND = "cookie.bound"
COOKIE_TEMPORARY = "cookie.temporary"
COOKIE_UNKNOWN = "cookie.unknown"
NOBODY = Owner(None, None, COOKIE_UNKNOWN, None)


def owner_of(event: Event, identities: Fold) -> Owner:
    """The owner of an event of the portal whose evidence was folded into `identities`."""
    outcome = identities.outcomes.get(event.event_id)
    if outcome is None:
        return owner_by_cookie(event.utk, event.occurred_at, identities)
    if not outcome.by_cookie:
        return Owner(outcome.contact_id, None, outcome.rule, None)
    return owner_by_cookie(event.utk, event.occurred_at, identities)._replace(rule=outcome.rule)


def owner_by_cookie(utk: Utk | None, at: Millis, identities: Fold) -> Owner:
    """Whose a cookie was at a time."""
    link = None if utk is None else covering(identities.links.get(utk, ()), at)
    if link is None:
        return NOBODY
    if link.status == "bound":
        return Owner(link.contact_id, None, COOKIE_BOUND, link.evidence)
    return Owner(None, link.contact_id, COOKIE_TEMPORARY, link.evidence)


def covering(links: Sequence[Link], at: Millis) -> Link | None:
    """The link that covers a time, valid_from <= at < valid_to; links do not overlap."""
    for link in reversed(links):
        if link.valid_from is None or link.valid_from <= at:
            return link if link.valid_to is None or at < link.valid_to else None
    return None
