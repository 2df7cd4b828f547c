"""The state of sessionize and identify: what they write is all that the next owner of a partition needs.

A new part, restored from what was written, takes over before some batches. The derived records, applied in their order, are what
readers have at the end; they must be what `resolve` computes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters import raw_batch
from pipeline.adapters.avro import Registry
from pipeline.adapters.changelog import Output
from pipeline.agents.decoding import Arrived
from pipeline.agents.identify import Portals, route_key
from pipeline.agents.sessionize import Visitors
from pipeline.agents.stateful import Effects
from pipeline.core.copies import merge
from pipeline.core.events import Event, matters_to_identity
from pipeline.core.policy import IdentityPolicy, Policy, Rebind, SessionPolicy
from pipeline.core.sessions import Retention
from pipeline.errors import UserError
from pipeline.resolve import Resolution, resolve_events
from pipeline.settings import Settings
from tests.builders import DAY, HOUR, START, form_submission, page_view, retraction, utk
from tests.core.test_convergence import with_retractions
from tests.strategies import RETRACTED, colliding_events, deliveries, undone_events

REGISTRY = Registry(Settings())
DEFAULTS = Policy()
FOREVER = Retention(10_000 * DAY, 1_000_000)


Arrival = tuple[bytes | None, Event]


class StatefulPart(Protocol):
    def restore(self, items: dict[bytes, bytes], /) -> None: ...
    def apply(self, arrived: list[Arrived], /) -> Effects: ...
    def everything(self) -> Iterator[Output]: ...


def arrived(arrivals: Sequence[Arrival]) -> list[Arrived]:
    """The events as they come from Kafka."""
    keys, values = [key for key, _ in arrivals], [REGISTRY.encode_event(event) for _, event in arrivals]
    return [Arrived(keys, REGISTRY.decode_events(values).batches)]


@pytest.fixture(autouse=True, params=[64, 0], ids=["read one at a time", "read in columns"])
def _reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_batch, "FEW", request.param)


def new_visitors(policy: SessionPolicy = DEFAULTS.sessions) -> Visitors:
    return Visitors(policy, FOREVER, REGISTRY.encode_frame)


def new_portals(policy: IdentityPolicy = DEFAULTS.identity) -> Portals:
    return Portals(policy, REGISTRY.encode)


class Loss(NamedTuple):
    """The changelog has lost its end: after `kept` batches had come, `lost` had as well."""

    kept: int
    lost: Sequence[list[Arrival]]


def run(
    new_part: Any, batches: Sequence[list[Arrival]], new_owners: Sequence[bool] | None = None, loss: Loss | None = None
) -> dict[str, list[dict[str, Any]]]:
    """What readers of the derived topics have after these batches; the partition has a new owner before each, or before those said.

    After a loss everything is said at the end.
    """
    items: dict[bytes, bytes] = {}
    shown: dict[tuple[str, bytes], bytes] = {}
    part: StatefulPart = new_part()

    def show(outputs: Iterable[Output]) -> None:
        _apply(shown, (((output.topic, output.key), output.value) for output in outputs))

    for number, (batch, new_owner) in enumerate(zip(batches, new_owners or [True] * len(batches), strict=True)):
        if new_owner:
            part = new_part()
            part.restore(items)
        if loss is not None and number == loss.kept:
            for each in loss.lost:
                show(part.apply(arrived(each)).outputs)
            part = new_part()
            part.restore(items)
        effects = part.apply(arrived(batch))
        _apply(items, effects.changes.items())
        show(effects.outputs)
    if loss is not None:
        show(part.everything())
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
CONTACT = ("portal_id", "contact_id", "email", "former_emails", "external_id", "created_at", "created_by", "merged_into")
USUAL = ("page_view", "custom_event", "email_click")
LINK = ("portal_id", "utk", "contact_id", "status", "valid_from", "valid_to", "rule", "evidence")


@given(data=st.data(), events=undone_events(portals=2, max_size=12))
def test_sessions_survive_any_change_of_owner(data: st.DataObject, events: list[Event]) -> None:
    """Records arrive under their own cookie; copies of an event, and what retracts it, under the cookies of its copies (event-copies)."""
    arrivals = [arrival for portal in (1, 2) for arrival in under_cookies([event for event in events if event.portal_id == portal])]
    without_cookie: list[Arrival] = [(event.event_id.encode(), event) for event in events if event.utk is None]
    batches = data.draw(deliveries(arrivals + without_cookie))
    if data.draw(st.booleans(), label="mostly in order, as usual"):
        batches.sort(key=lambda batch: min((event.occurred_at for _, event in batch), default=0))
    shown = run(new_visitors, batches, data.draw(st.lists(st.booleans(), min_size=len(batches), max_size=len(batches))))
    assert values(shown.get("sessions", ()), SESSION) == values(resolved(events).sessions, SESSION)


def under_cookies(events: list[Event]) -> list[Arrival]:
    """What the cookies of one portal are told: every copy of the events that name them, and of the retractions that decide about these."""
    found: list[Arrival] = []
    for cookie in sorted({event.utk for event in events if event.utk}):
        ids = with_retractions({event.event_id for event in events if event.utk == cookie}, events)
        found += [(cookie.encode(), event) for event in events if event.event_id in ids]
    return found


@given(data=st.data(), events=colliding_events(kinds=USUAL, copies=False, max_size=25) | colliding_events(kinds=RETRACTED, copies=False))
def test_sessions_of_activity_in_order(data: st.DataObject, events: list[Event]) -> None:
    """The quick way of the usual case, in turn with the general one: now and then something late, twice, or after a change of owner."""
    ordered = sorted(events, key=lambda event: (event.occurred_at, event.event_id))
    for late in data.draw(st.lists(st.integers(0, max(0, len(ordered) - 1)), max_size=2)) if ordered else ():
        ordered.append(ordered.pop(late) if data.draw(st.booleans(), label="late, or twice") else ordered[late])
    cookies = {(event.event_id, key) for key, event in under_cookies(events)}
    arrivals: list[Arrival] = [(key, event) for event in ordered for id_, key in sorted(cookies) if id_ == event.event_id]
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=len(arrivals), max_size=len(arrivals)))
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    batches = [arrivals[end - size : end] for size, end in zip(sizes, ends, strict=True) if end - size < len(arrivals)]
    owners = data.draw(st.lists(st.integers(0, 4).map(lambda n: n == 0), min_size=len(batches), max_size=len(batches)))
    shown = run(new_visitors, batches, owners)
    assert values(shown.get("sessions", ()), SESSION) == values(resolved(events).sessions, SESSION)


@given(data=st.data(), events=undone_events(portals=2, max_size=15))
def test_identities_survive_any_change_of_owner_and_the_loss_of_state(data: st.DataObject, events: list[Event]) -> None:
    """Evidence and retractions, and copies of them of other kinds, under the key of their portal. What a state that has lost its end had
    made of some of them, in other batches, is set right where it is not what they mean in the end.
    """
    evidence = {(event.portal_id, event.event_id) for event in events if matters_to_identity(event)}
    arrivals: list[Arrival] = [(route_key(event), event) for event in events if (event.portal_id, event.event_id) in evidence]
    before = data.draw(deliveries(arrivals))
    kept = data.draw(st.integers(0, len(before)))
    after = data.draw(deliveries([arrival for batch in before[kept:] for arrival in batch]))
    loss = Loss(kept, before[kept : data.draw(st.integers(kept, len(before)))])
    shown = run(new_portals, [*before[:kept], *after], loss=loss)
    expected = resolved(events)
    contacts = [record | {"former_emails": list(record["former_emails"])} for record in shown.get("contacts", ())]
    assert values(contacts, CONTACT) == values(expected.contacts, CONTACT)
    assert values(shown.get("identity-links", ()), LINK) == values(expected.links, LINK)
    owners = {(r["portal_id"], r["event_id"]): (r["contact_id"], r["rule"]) for r in shown.get("evidence-owners", ()) if not r["by_cookie"]}
    assert owners == {
        (row.portal_id, row.event_id): (row.contact_id, row.rule) for row in expected.events if (row.portal_id, row.event_id) in owners
    }


def test_an_event_that_was_retracted_before_it_came_is_noticed_in_order_and_after_a_restart() -> None:
    """Its id is looked up like a known one; what nobody retracts is appended as ever."""
    key = utk("a").encode()
    first, gone, last = (page_view(n, at=START + n) for n in (1, 2, 3))
    undo = retraction(9, at=START + 9, retracts=2)
    expected = values(resolved([first, gone, last, undo]).sessions, SESSION)
    orders: list[list[list[Event]]] = [
        [[first], [undo], [gone], [last]],
        [[undo, first], [gone, last]],
        [[first, gone, last], [undo]],
        [[undo], [last], [first, gone]],
    ]
    for batches in orders:
        for owners in ([False] * 4, [True] * 4, [False, True, False, False]):
            shown = run(new_visitors, [[(key, event) for event in batch] for batch in batches], owners[: len(batches)])
            assert values(shown["sessions"], SESSION) == expected


def test_an_event_from_long_ago_can_be_retracted_and_brought_back() -> None:
    """Events that are packed, among many; the retraction, too, when the next one comes."""
    key = utk("a").encode()
    views = [page_view(n, at=START + n * HOUR) for n in range(40)]
    undo, redo = retraction(90, at=START + 90 * HOUR, retracts=5), retraction(91, at=START + 91 * HOUR, retracts=90)
    events: list[Event] = [*views, undo, page_view(80, at=START + 80 * HOUR), redo]
    for count in (41, 42, 43):
        shown = run(new_visitors, [[(key, event)] for event in events[:count]], [False] * count)
        assert values(shown["sessions"], SESSION) == values(resolved(events[:count]).sessions, SESSION)


def test_the_same_batch_again_changes_nothing() -> None:
    """State is a set of events: nothing is derived from an event that is there, and nothing is written."""
    visitors, portals = new_visitors(), new_portals()
    view, form = page_view(1), form_submission(2, email="a@x.io")
    for part, arrival in ((visitors, (utk("a").encode(), view)), (portals, (b"1", form))):
        assert part.apply(arrived([arrival])).outputs != []
        assert part.apply(arrived([arrival])) == ([], {}, 0)


def test_a_cookie_with_much_history_is_cut_into_records_that_kafka_takes() -> None:
    visitors = new_visitors()
    key = str(page_view(1).utk).encode()
    views = [page_view(number, at=START + number, url=f"https://x.io/{'long' * 2_000}/{number}") for number in range(300)]
    written = visitors.apply(arrived([(key, view) for view in views])).changes
    assert max(len(chunk) for chunk in written.values() if chunk is not None) < 300_000
    restored = new_visitors()
    restored.restore({key: value for key, value in written.items() if value is not None})
    assert restored.apply(arrived([(key, view) for view in views])) == ([], {}, 0)


def test_what_is_forgotten_leaves_the_changelog() -> None:
    """A robot with a limit of 100 events, restored after every batch: the table stays small, and its sessions are counted on."""
    key = str(page_view(1).utk).encode()
    items: dict[bytes, bytes] = {}
    numbers = []
    for number in range(400):
        part = Visitors(SessionPolicy(), Retention(DAY, 100), REGISTRY.encode_frame)
        part.restore(items)
        effects = part.apply(arrived([(key, page_view(number, at=START + number * 1_800_001))]))
        _apply(items, effects.changes.items())
        numbers += [REGISTRY.decode(output.value)["number"] for output in effects.outputs if output.value]
    assert numbers == list(range(1, 401))
    assert len(items) < 40


def test_what_belongs_before_what_is_forgotten_is_counted_as_late() -> None:
    visitors = Visitors(SessionPolicy(), Retention(DAY, 1_000), REGISTRY.encode_frame)
    key = str(page_view(1).utk).encode()
    visitors.apply(arrived([(key, page_view(1, at=START)), (key, page_view(2, at=START + 3 * DAY))]))
    assert visitors.apply(arrived([(key, page_view(3, at=START - 1))])) == ([], {}, 1)


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
    written = made().apply(arrived([(b"0" * 32, form_submission(1, email="a@x.io"))])).changes
    made().restore(written)
    with pytest.raises(UserError, match="policy"):
        found().restore(written)
