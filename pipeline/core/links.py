"""Links: who owned a cookie when (spec: identity.md, "Links", and Bind in "State of the fold").

The links of one cookie are a tuple in the order of time; only the last one may be open. Temporary ones vanish when the cookie is bound.
"""

from typing import Literal

import msgspec

from pipeline.core.events import EventId, Millis
from pipeline.core.evidence import Rule
from pipeline.core.ids import ContactId
from pipeline.core.policy import Rebind

Status = Literal["bound", "temporary"]


class Link(msgspec.Struct, frozen=True, gc=False):
    """A stretch of ownership of a cookie: `valid_from` (None: the beginning of time) <= t < `valid_to` (None: open)."""

    contact_id: ContactId
    status: Status
    valid_from: Millis | None
    valid_to: Millis | None
    rule: Rule
    evidence: EventId


def bound_to(links: tuple[Link, ...]) -> ContactId | None:
    """The contact that the cookie of these links is bound to now."""
    return links[-1].contact_id if links and links[-1].status == "bound" else None


def bind(links: tuple[Link, ...], new: Link, rebind: Rebind) -> tuple[Link, ...]:
    """The links of a cookie after Bind; the same object if nothing changes. The first binding claims the cookie's history."""
    claims_history = msgspec.structs.replace(new, valid_from=None)
    if not links or links[-1].status == "temporary":
        return (claims_history,)
    if links[-1].contact_id == new.contact_id:
        return links
    match rebind:
        case Rebind.FROM_NOW:
            return follow(links, new)
        case Rebind.KEEP_OWNER:
            return links
        case Rebind.MOVE_ALL:
            return (claims_history,)


def follow(links: tuple[Link, ...], new: Link) -> tuple[Link, ...]:
    """The links after `new` has followed the open one; the same object if that is its contact's already."""
    if not links:
        return (new,)
    last = links[-1]
    if last.contact_id == new.contact_id:
        return links
    if last.valid_from is not None and last.valid_from == new.valid_from:
        return (*links[:-1], new)
    return (*links[:-1], msgspec.structs.replace(last, valid_to=new.valid_from), new)


def handed_over(links: tuple[Link, ...], gone: ContactId, into: ContactId) -> tuple[Link, ...]:
    """The links after `gone` was merged into another contact; the same object if none was its own."""
    if all(link.contact_id != gone for link in links):
        return links
    return tuple(msgspec.structs.replace(link, contact_id=into) if link.contact_id == gone else link for link in links)
