"""Identity as evidence comes in: the incremental form of `identity.fold` (spec: identity.md; convergence: spec README).

A portal's evidence falls into *components*: pieces that share an address, a cookie or an external id, directly or through others.
Components are independent of each other, so the fold over all evidence is the union of the folds over its components. Hence for a batch:

* evidence that is newer than everything in its component is applied to what is there: O(1);
* evidence that comes late, or an event that changed because a further copy of it came, makes its component be taken back and folded anew;
* evidence that connects components first makes them one;
* evidence that is retracted leaves its component, and comes back when the retraction is retracted.

A component may stay larger than it need be (when an event lost its cookie to a better copy): that costs time, never correctness.
"""

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline.core.contacts import Contact
from pipeline.core.copies import Trace, add_trace, merge_traces
from pipeline.core.events import EventId, PortalId, Utk
from pipeline.core.evidence import Evidence, Outcome
from pipeline.core.identity import Fold
from pipeline.core.identity_rules import TABLES
from pipeline.core.ids import ContactId
from pipeline.core.links import Link
from pipeline.core.policy import IdentityPolicy
from pipeline.core.retractions import Retractions, retracted_among

FEW = 32
"""Up to this many pieces of evidence are put into a larger component one by one; more are sorted together with it."""


class Component:
    """Connected evidence, in the order of the fold, and since the last batch: what is new, and whether it must be folded anew."""

    __slots__ = ("added", "applied", "removed")

    def __init__(self) -> None:
        self.applied: list[Evidence] = []
        self.added: list[Evidence] = []
        self.removed: list[Evidence] = []

    def absorb(self, other: "Component") -> None:
        """Take over all of another component, which is left empty."""
        if len(other.applied) > FEW:
            self.applied = sorted(self.applied + other.applied, key=_key)
        else:
            for item in other.applied:
                insort(self.applied, item, key=_key)
        self.added += other.added
        self.removed += other.removed
        other.applied, other.added, other.removed = [], [], []

    def bring_up_to_date(self, fold: Fold) -> None:
        """Apply what is new: at the end where it belongs there, else by folding the component anew."""
        self.added.sort(key=_key)
        if self.removed or (self.added and self.applied and self.added[0].key < self.applied[-1].key):
            fold.forget(self.applied)
            gone = set(self.removed)
            self.added = sorted([item for item in self.applied if item not in gone] + self.added, key=_key)
            self.applied = []
        for item in self.added:
            fold.apply(item)
        self.applied += self.added
        self.added = []
        self.removed = []


class IdentityChanges(NamedTuple):
    """What a batch changed: new values, None where something is gone; and the copies of each event that changed, for the changelog."""

    contacts: dict[ContactId, Contact | None]
    links: dict[Utk, tuple[tuple[Link, ...], tuple[Link, ...]]]
    """Per cookie the links before and after."""
    outcomes: dict[EventId, Outcome | None]
    events: dict[EventId, tuple[Trace, ...]]


class LiveIdentities:
    """Live state of one portal: the copies of every event of evidence, its components, and the fold over them."""

    def __init__(self, portal: PortalId, policy: IdentityPolicy) -> None:
        self._fold = Fold(portal, policy)
        self._copies: dict[EventId, tuple[Trace, ...]] = {}
        self._evidence: dict[EventId, Evidence] = {}
        self._component_of: dict[str, Component] = {}
        self._retractions = Retractions()

    @property
    def contacts(self) -> Mapping[ContactId, Contact]:
        return self._fold.contacts

    @property
    def links(self) -> Mapping[Utk, tuple[Link, ...]]:
        return self._fold.links

    @property
    def outcomes(self) -> Mapping[EventId, Outcome]:
        return self._fold.outcomes

    @property
    def copies(self) -> Mapping[EventId, tuple[Trace, ...]]:
        return self._copies

    def everything(self) -> IdentityChanges:
        """All that there is, as if nothing had been there before; but for the copies of the events."""
        links: dict[Utk, tuple[tuple[Link, ...], tuple[Link, ...]]] = {utk: ((), now) for utk, now in self.links.items()}
        return IdentityChanges(dict(self.contacts), links, dict(self.outcomes), {})

    def seeds(self) -> Counter[str]:
        """How many events could make a contact from each seed, by any of their copies, retracted ones included. Looks at all of them."""
        return Counter(seed for copies in self._copies.values() for seed in _seeds(copies))

    def advance(self, new: Iterable[Trace]) -> IdentityChanges:
        """Take a batch of traces, in any order, known ones included, and say what changed."""
        changed: dict[EventId, tuple[Trace, ...]] = {}
        for item in new:
            there = self._copies.get(item.event_id, ())
            together = add_trace(there, item)
            if together is not there:
                self._copies[item.event_id] = changed[item.event_id] = together
        touched: dict[int, Component] = {}
        for event_id, evidence in self._evidence_now(changed):
            for component in self._place(event_id, evidence):
                touched[id(component)] = component
        fold = self._fold
        fold.clear_journals()
        for component in touched.values():
            component.bring_up_to_date(fold)
        return IdentityChanges(
            {contact_id: now for contact_id, _, now in fold.contacts_before.changes(fold.contacts)},
            {utk: (before or (), now or ()) for utk, before, now in fold.links_before.changes(fold.links)},
            {event_id: now for event_id, _, now in fold.outcomes_before.changes(fold.outcomes)},
            changed,
        )

    def _evidence_now(self, changed: Mapping[EventId, Sequence[Trace]]) -> Iterator[tuple[EventId, Evidence | None]]:
        """What the changed events say now, and those that are retracted, or are not any more, because of them."""
        merged = {event_id: merge_traces(copies) for event_id, copies in changed.items()}
        for event_id in changed:
            for concerned in self._retractions.note(event_id, merged[event_id].get("retracts")):
                if concerned not in merged and concerned in self._copies:
                    merged[concerned] = merge_traces(self._copies[concerned])
        gone = retracted_among((event.occurred_at, event_id, event.get("retracts")) for event_id, event in merged.items())
        for event_id, event in merged.items():
            yield event_id, None if event_id in gone else evidence_of_trace(event)

    def _place(self, event_id: EventId, new: Evidence | None) -> Iterator[Component]:
        """Put what an event now says into its component, and take out what it said before."""
        old = self._evidence.get(event_id)
        if old == new:
            return
        if old is not None:
            component = self._component_of[next(_nodes(old))]
            component.removed.append(old)
            del self._evidence[event_id]
            if new is None:
                yield component
        if new is not None:
            self._evidence[event_id] = new
            component = self._joined(new, old)
            component.added.append(new)
            yield component

    def _joined(self, evidence: Evidence, old: Evidence | None) -> Component:
        """The one component of everything that the evidence touches (and touched before)."""
        nodes = {*_nodes(evidence), *(_nodes(old) if old else ())}
        found = {id(c): c for c in map(self._component_of.get, nodes) if c is not None}
        largest = max(found.values(), key=lambda c: len(c.applied), default=None) or Component()
        for other in found.values():
            if other is not largest:
                for member in (*other.applied, *other.added, *other.removed):
                    for node in _nodes(member):
                        self._component_of[node] = largest
                largest.absorb(other)
        for node in nodes:
            self._component_of[node] = largest
        return largest


def evidence_of_trace(merged: Trace) -> Evidence | None:
    """What identity sees of a merged trace (kept with KEPT_BY_IDENTITY), None if it is no evidence."""
    kind, get = merged.get("type"), merged.get
    if kind not in TABLES:
        return None
    utk = get("utk")
    if kind == "form_submission" and not get("use_cookie"):
        utk = None
    email = get(_ADDRESS.get(kind, "email"))
    ids, bot, create_new = (get("external_id"), get("send_id")), bool(get("bot")), bool(get("create_new_contact"))
    return Evidence(merged.occurred_at, merged.event_id, kind, utk, email, *ids, bot, create_new, get("secondary"))


def _seeds(copies: Iterable[Trace]) -> set[str]:
    return {evidence.seed for evidence in map(evidence_of_trace, copies) if evidence is not None}


_ADDRESS = {"email_click": "recipient_email", "contact_merge": "primary"}
"""Fields that hold the address of evidence, where they are not `email`."""


def _nodes(evidence: Evidence) -> Iterator[str]:
    """What can connect this evidence with other evidence; itself, if there is nothing."""
    connected = False
    for prefix, value in (("u", evidence.utk), ("e", evidence.email), ("x", evidence.external_id), ("e", evidence.secondary)):
        if value is not None:
            connected = True
            yield prefix + value
    if not connected:
        yield "i" + evidence.event_id


def _key(evidence: Evidence) -> tuple[int, str]:
    return evidence.key
