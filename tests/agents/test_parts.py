"""The state of sessionize and identify: what they write is all that the next owner of a partition needs.

A new part, restored from what was written, takes over before every batch. The derived records, applied in their order, are what
readers have at the end; they must be what `resolve` computes.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters.avro import Registry
from pipeline.agents.decoding import Arrival
from pipeline.agents.harness import Effects
from pipeline.agents.identify import Portals, route_key
from pipeline.agents.sessionize import Visitors
from pipeline.core.copies import merge
from pipeline.core.events import Event, is_evidence
from pipeline.core.policy import IdentityPolicy, Policy, Rebind, SessionPolicy
from pipeline.core.sessions import Retention
from pipeline.errors import UserError
from pipeline.resolve import Resolution, resolve_events
from pipeline.settings import Settings
from tests.builders import DAY, START, form_submission, page_view, utk
from tests.strategies import colliding_events, deliveries

REGISTRY = Registry(Settings())
DEFAULTS = Policy()
FOREVER = Retention(10_000 * DAY, 1_000_000)


class StatefulPart(Protocol):
    def restore(self, items: dict[bytes, bytes], /) -> None: ...
    def apply(self, arrivals: list[Arrival], /) -> Effects: ...


def new_visitors(policy: SessionPolicy = DEFAULTS.sessions) -> Visitors:
    return Visitors(policy, FOREVER, REGISTRY.encode)


def new_portals(policy: IdentityPolicy = DEFAULTS.identity) -> Portals:
    return Portals(policy, REGISTRY.encode)


def run(new_part: Any, batches: Iterable[list[Arrival]]) -> dict[str, list[dict[str, Any]]]:
    """What readers of the derived topics have after these batches, each worked on by a new owner of the partition."""
    items: dict[bytes, bytes] = {}
    shown: dict[tuple[str, bytes], bytes] = {}
    for batch in batches:
        part: StatefulPart = new_part()
        part.restore(items)
        effects = part.apply(batch)
        _apply(items, effects.changes.items())
        _apply(shown, (((output.topic, output.key), output.value) for output in effects.outputs))
    by_topic: dict[str, list[dict[str, Any]]] = {}
    for (topic, _), value in shown.items():
        by_topic.setdefault(topic, []).append(REGISTRY.decode(value))
    return by_topic


def _apply(target: dict[Any, bytes], changes: Iterable[tuple[Any, bytes | None]]) -> None:
    for key, value in changes:
        if value is None:
            target.pop(key, None)
        else:
            target[key] = value


def resolved(events: Iterable[Event]) -> Resolution:
    copies: dict[Any, list[Event]] = {}
    for event in events:
        copies.setdefault((event.portal_id, event.event_id), []).append(event)
    return resolve_events([merge(group).event for group in copies.values()], Policy())


def values(records: Iterable[Any], names: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """These fields of the records, as a sorted list; absent sorts as text."""
    rows = [tuple(record[name] if isinstance(record, dict) else getattr(record, name) for name in names) for record in records]
    return sorted(rows, key=repr)


SESSION = ("portal_id", "utk", "session_id", "number", "started_at", "ended_at", "previous_started_at", "activity_count", "source")
CONTACT = ("portal_id", "contact_id", "email", "former_emails", "external_id", "created_at", "created_by")
LINK = ("portal_id", "utk", "contact_id", "status", "valid_from", "valid_to", "rule", "evidence")


@given(data=st.data(), events=colliding_events(portals=2, max_size=12))
def test_sessions_survive_any_change_of_owner(data: st.DataObject, events: list[Event]) -> None:
    """Records arrive under their own cookie, and copies of an event under the cookies of its other copies (event-copies)."""
    cookies: dict[Any, set[str]] = {}
    for event in events:
        cookies.setdefault((event.portal_id, event.event_id), set()).update({event.utk} if event.utk else ())
    arrivals: list[Arrival] = [(utk.encode(), event) for event in events for utk in sorted(cookies[event.portal_id, event.event_id])]
    without_cookie: list[Arrival] = [(event.event_id.encode(), event) for event in events if event.utk is None]
    shown = run(new_visitors, data.draw(deliveries(arrivals + without_cookie)))
    assert values(shown.get("sessions", ()), SESSION) == values(resolved(events).sessions, SESSION)


@given(data=st.data(), events=colliding_events(portals=2, max_size=15))
def test_identities_survive_any_change_of_owner(data: st.DataObject, events: list[Event]) -> None:
    """Evidence, and copies of it of other kinds, under the key of its portal."""
    evidence = {(event.portal_id, event.event_id) for event in events if is_evidence(event)}
    arrivals: list[Arrival] = [(route_key(event), event) for event in events if (event.portal_id, event.event_id) in evidence]
    shown = run(new_portals, data.draw(deliveries(arrivals)))
    expected = resolved(events)
    contacts = [record | {"former_emails": list(record["former_emails"])} for record in shown.get("contacts", ())]
    assert values(contacts, CONTACT) == values(expected.contacts, CONTACT)
    assert values(shown.get("identity-links", ()), LINK) == values(expected.links, LINK)
    owners = {(r["portal_id"], r["event_id"]): (r["contact_id"], r["rule"]) for r in shown.get("evidence-owners", ()) if not r["by_cookie"]}
    assert owners == {
        (row.portal_id, row.event_id): (row.contact_id, row.rule) for row in expected.events if (row.portal_id, row.event_id) in owners
    }


def test_the_same_batch_again_changes_nothing() -> None:
    """State is a set of events: nothing is derived from an event that is there, and nothing is written."""
    visitors, portals = new_visitors(), new_portals()
    view, form = page_view(1), form_submission(2, email="a@x.io")
    for part, arrival in ((visitors, (utk("a").encode(), view)), (portals, (b"1", form))):
        assert part.apply([arrival]).outputs != []
        assert part.apply([arrival]) == ([], {}, 0)


def test_what_belongs_before_what_is_forgotten_is_counted_as_late() -> None:
    visitors = Visitors(SessionPolicy(), Retention(DAY, 1_000), REGISTRY.encode)
    key = str(page_view(1).utk).encode()
    visitors.apply([(key, page_view(1, at=START)), (key, page_view(2, at=START + 3 * DAY))])
    assert visitors.apply([(key, page_view(3, at=START - 1))]) == ([], {}, 1)


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (new_visitors, lambda: new_visitors(SessionPolicy(split_on_source_change=True))),
        (new_portals, lambda: new_portals(IdentityPolicy(rebind=Rebind.MOVE_ALL))),
    ],
    ids=["sessionize", "identify"],
)
def test_state_of_another_policy_is_refused(made: Any, found: Any) -> None:
    """Half of the history under one rule and half under another would be neither."""
    written = made().apply([(b"0" * 32, form_submission(1, email="a@x.io"))]).changes
    made().restore(written)
    with pytest.raises(UserError, match="policy"):
        found().restore(written)
