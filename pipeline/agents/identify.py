"""`identify`: evidence in, contacts and links out (spec: identity.md).

Two steps. `route` sends evidence and retractions, a few per cent of all events, on to `identity-evidence` under their portal, so that one
partition has all of a portal's. `Portals` folds them there. The table `identities` has the copies of each of these events, for ever;
contacts, links and outcomes follow from them and are computed again when a partition is opened.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.adapters.avro import Registry
from pipeline.adapters.changelog import Output
from pipeline.agents.decoding import Arrived
from pipeline.agents.policy_mark import PolicyMark
from pipeline.agents.stateful import Effects
from pipeline.core.contacts import Contact
from pipeline.core.copies import KEPT_BY_IDENTITY, Trace, trace
from pipeline.core.events import Event, PortalId
from pipeline.core.evidence import Outcome
from pipeline.core.identity_live import IdentityChanges, LiveIdentities
from pipeline.core.ids import contact_id
from pipeline.core.links import Link
from pipeline.core.policy import IdentityPolicy
from pipeline.policy_file import load_policy
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.agents.harness import Part

EVIDENCE_SOURCES = ("email-clicks", "form-submissions", "identifies", "contact-imports", "retractions", "contact-merges")
EVIDENCE = "identity-evidence"
TABLE = "identities"

Encode = Callable[[str, Mapping[str, Any]], bytes]
"""`Registry.encode`."""

_encode_copies = msgspec.msgpack.Encoder().encode
_decode_copies = msgspec.msgpack.Decoder(tuple[Trace, ...]).decode


class Portals:
    """The portals of one partition of `identity-evidence`."""

    def __init__(self, policy: IdentityPolicy, encode: Encode) -> None:
        self._policy = policy
        self._encode = encode
        self._mark = PolicyMark(policy, "[identity]")
        self._portals: dict[PortalId, LiveIdentities] = {}

    def restore(self, items: Mapping[bytes, bytes]) -> None:
        """Becomes the state that these items of the changelog are. UserError if it was made under another policy."""
        traces: dict[PortalId, list[Trace]] = defaultdict(list)
        for key, value in self._mark.check(items).items():
            traces[PortalId(int(key.partition(b"|")[0]))] += _decode_copies(value)
        for portal, of_portal in traces.items():
            self._identities(portal).advance(of_portal)

    def apply(self, arrived: Sequence[Arrived], *, again: bool = False) -> Effects:  # noqa: ARG002 - no evidence is ever forgotten
        """Folds in the evidence of a batch."""
        traces: dict[PortalId, list[Trace]] = defaultdict(list)
        for event in chain.from_iterable(each.events() for each in arrived):
            traces[event.portal_id].append(trace(event, KEPT_BY_IDENTITY))
        effects = Effects([], self._mark.changes(), 0)
        for portal, of_portal in traces.items():
            changes = self._identities(portal).advance(of_portal)
            effects.outputs.extend(self._outputs(portal, changes))
            effects.changes.update((f"{portal}|{id_}".encode(), _encode_copies(copies)) for id_, copies in changes.events.items())
        return effects

    def everything(self) -> Iterator[Output]:
        for portal, identities in self._portals.items():
            yield from self._outputs(portal, identities.everything())
            yield from _makes_nothing(portal, identities)

    def _identities(self, portal: PortalId) -> LiveIdentities:
        return self._portals.setdefault(portal, LiveIdentities(portal, self._policy))

    def _outputs(self, portal: PortalId, changes: IdentityChanges) -> Iterator[Output]:
        """The derived records that the changes are; null where something is gone."""
        for id_, contact in changes.contacts.items():
            yield Output("contacts", f"{portal}|{id_}".encode(), self._encode("contact", _contact(portal, contact)) if contact else None)
        for utk, (before, after) in changes.links.items():
            key = f"{portal}|{utk}|"
            gone = {link.evidence for link in before} - {link.evidence for link in after}
            for evidence in sorted(gone):
                yield Output("identity-links", f"{key}{evidence}".encode(), None)
            for link in after:
                if link not in before:
                    value = self._encode("identity_link", _link(portal, utk, link))
                    yield Output("identity-links", f"{key}{link.evidence}".encode(), value)
        for event_id, outcome in changes.outcomes.items():
            owner = self._encode("evidence_owner", _owner(portal, event_id, outcome)) if outcome else None
            yield Output("evidence-owners", f"{portal}|{event_id}".encode(), owner)


def _makes_nothing(portal: PortalId, identities: LiveIdentities) -> Iterator[Output]:
    """That an event makes no owner, no link and no contact, where it does not."""
    for item in chain.from_iterable(identities.copies.values()):
        utk, id_ = item.get("utk"), item.event_id
        if id_ not in identities.outcomes:
            yield Output("evidence-owners", f"{portal}|{id_}".encode(), None)
        if utk is not None and all(link.evidence != id_ for link in identities.links.get(utk, ())):
            yield Output("identity-links", f"{portal}|{utk}|{id_}".encode(), None)
    for seed, events in identities.seeds().items():
        for contact in (contact_id(portal, seed, number) for number in range(events)):
            if contact not in identities.contacts:
                yield Output("contacts", f"{portal}|{contact}".encode(), None)


def _contact(portal: PortalId, contact: Contact) -> dict[str, object]:
    return {
        "portal_id": portal,
        "contact_id": contact.contact_id,
        "email": contact.email,
        "former_emails": contact.former_emails,
        "external_id": contact.external_id,
        "created_at": contact.created_at,
        "created_by": contact.created_by,
        "merged_into": contact.merged_into,
    }


def _link(portal: PortalId, utk: str, link: Link) -> dict[str, object]:
    return {"portal_id": portal, "utk": utk, **msgspec.structs.asdict(link)}


def _owner(portal: PortalId, event_id: str, outcome: Outcome) -> dict[str, object]:
    return {"portal_id": portal, "event_id": event_id, **msgspec.structs.asdict(outcome)}


def route_key(event: Event) -> bytes:
    """Evidence goes to its portal."""
    return str(event.portal_id).encode()


def identify(settings: Settings) -> "Part":
    """The part, ready to run."""
    from pipeline.agents.harness import Fold, Route, part  # Faust, which a rebuild does not need

    registry = Registry(settings)
    portals = partial(Portals, load_policy(settings.policy_file).identity, registry.encode)
    return part(
        settings,
        "identify",
        Route(EVIDENCE_SOURCES, EVIDENCE, route_key),
        Fold((EVIDENCE,), TABLE, portals),
        decode=registry.decode_events,
    )
