"""Convergence (spec README): the result is a function of the set of events, and the incremental forms equal the plain ones.

What the incremental forms *say changed* is applied to a picture of what a reader has; at the end the picture must be what the plain
form computes from the whole set. So a change that is not said, or said wrongly, fails too.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise, permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.copies import KEPT_BY_IDENTITY, Trace, add_trace, merge, merge_traces, trace
from pipeline.core.events import Event, EventId, PortalId, Retraction, Utk
from pipeline.core.evidence import evidence_of
from pipeline.core.identity import fold
from pipeline.core.identity_live import LiveIdentities, evidence_of_trace
from pipeline.core.policy import (
    AnonymousContact,
    CreateNewBindsCookie,
    EmailBindingScope,
    IdentifyNewEmail,
    IdentityPolicy,
    Policy,
    Rebind,
    ReplacedEmail,
    SessionPolicy,
)
from pipeline.core.retractions import retracted
from pipeline.core.sessions import Session, activity_of
from pipeline.core.sessions import fold as fold_sessions
from pipeline.resolve import resolve_events, resolve_lines
from tests.builders import START, contact_import, contact_merge, form_submission, line, retraction
from tests.strategies import colliding_events, deliveries, undone_events

PORTAL = PortalId(1)

session_policies = st.builds(SessionPolicy, split_on_source_change=st.booleans())
identity_policies = st.builds(
    IdentityPolicy,
    st.sampled_from(Rebind),
    st.sampled_from(ReplacedEmail),
    st.sampled_from(CreateNewBindsCookie),
    st.sampled_from(EmailBindingScope),
    st.sampled_from(IdentifyNewEmail),
    st.sampled_from(AnonymousContact),
)


def merged(events: Iterable[Event]) -> list[Event]:
    """One event of the copies of each."""
    copies = defaultdict(list)
    for event in events:
        copies[event.portal_id, event.event_id].append(event)
    return [merge(group).event for group in copies.values()]


def what_counts(events: Iterable[Event]) -> list[Event]:
    """One event of the copies of each, without those that are retracted."""
    gone = retracted(one_each := merged(events))
    return [event for event in one_each if (event.portal_id, event.event_id) not in gone]


def together(copies: Iterable[Event]) -> tuple[Trace, ...]:
    """The traces of an event's copies, as they came in."""
    traces: tuple[Trace, ...] = ()
    for copy in copies:
        traces = add_trace(traces, trace(copy, KEPT_BY_IDENTITY))
    return traces


def sessions_by_cookie(events: Iterable[Event], policy: SessionPolicy) -> dict[Utk, list[Session]]:
    """The plain form: the sessions of each cookie."""
    activities = defaultdict(list)
    for event in events:
        activity = activity_of(event)
        if activity is not None and event.utk is not None:
            activities[event.utk].append(activity)
    return {utk: fold_sessions(sorted(of_cookie), policy) for utk, of_cookie in activities.items()}


def with_retractions(ids: set[EventId], events: Sequence[Event]) -> set[EventId]:
    """These events, and all that retract them, directly or through others, in any copy."""
    while more := {event.event_id for event in events if isinstance(event, Retraction) and event.retracts in ids} - ids:
        ids |= more
    return ids


@given(events=colliding_events(copies=False, max_size=20), policy=session_policies)
def test_sessions_of_a_cookie_never_overlap(events: list[Event], policy: SessionPolicy) -> None:
    for sessions in sessions_by_cookie(events, policy).values():
        places = [((s.started_at, s.first_event_id), (s.ended_at, s.last_event_id)) for s in sessions]
        assert all(start <= end for start, end in places)
        assert all(end < start for (_, end), (start, _) in pairwise(places))


@given(data=st.data(), events=undone_events(max_size=20), policy=identity_policies)
def test_live_identities_equal_the_plain_fold(data: st.DataObject, events: list[Event], policy: IdentityPolicy) -> None:
    """Contacts, links and what each piece of evidence resolved to, under every policy."""
    assert_live_equals_plain(data.draw(deliveries(events)), policy)


FORMS = tuple(form_submission(n, at=START + n, utk=f"u{n}", email=f"{letter}@x.io") for n, letter in enumerate("abc", 1))


@pytest.mark.parametrize(
    "events",
    [
        (FORMS[0], *(retraction(n, at=START + n, retracts=n - 1) for n in (2, 3, 4, 5))),
        (
            *FORMS,
            contact_merge(4, at=START + 4),
            retraction(5, at=START + 5, retracts=4),
            contact_merge(6, at=START + 6, primary="c@x.io", secondary="a@x.io"),
        ),
        (
            form_submission(1, at=START + 1),
            form_submission(2, at=START + 2, email="b@x.io"),
            contact_import(3, at=START, email="b@x.io"),
            retraction(4, at=START + 4, retracts=2),
            retraction(5, at=START + 5, retracts=3),
        ),
    ],
    ids=["retractions of retractions", "a merge, undone, and another", "an absorbed contact and its evidence, undone"],
)
def test_live_identities_equal_the_plain_fold_in_every_order(events: Sequence[Event]) -> None:
    """One by one: what a merge or a retraction did is taken back without a trace."""
    for order in permutations(events):
        assert_live_equals_plain([[event] for event in order], IdentityPolicy())


def assert_live_equals_plain(batches: Sequence[Sequence[Event]], policy: IdentityPolicy) -> None:
    """What a reader has at the end of what live identities say changed."""
    counting = what_counts(event for batch in batches for event in batch)
    expected = fold(PORTAL, (e for e in map(evidence_of, counting) if e is not None), policy)
    live = LiveIdentities(PORTAL, policy)
    contacts: dict[Any, Any] = {}
    links: dict[Any, Any] = {}
    outcomes: dict[Any, Any] = {}
    for batch in batches:
        changes = live.advance([trace(event, KEPT_BY_IDENTITY) for event in batch])
        contacts |= changes.contacts
        outcomes |= changes.outcomes
        for utk, (before, after) in changes.links.items():
            assert links.get(utk, ()) == before
            links[utk] = after
    assert {key: value for key, value in contacts.items() if value is not None} == expected.contacts
    assert {key: value for key, value in links.items() if value} == {key: value for key, value in expected.links.items() if value}
    assert {key: value for key, value in outcomes.items() if value is not None} == expected.outcomes


@given(
    events=colliding_events(kinds=("form_submission", "email_click", "identify", "contact_import", "contact_merge"), copies=False),
    policy=identity_policies,
)
def test_links_of_a_cookie_never_overlap(events: list[Event], policy: IdentityPolicy) -> None:
    """Bound or temporary: at any time a cookie is at most one contact's, and a bound cookie has no temporary link."""
    for links in fold(PORTAL, (e for e in map(evidence_of, events) if e is not None), policy).links.values():
        assert len({link.status for link in links}) == 1
        assert all(link.valid_to is not None and link.valid_to == after.valid_from for link, after in pairwise(links))
        assert all(link.valid_from is None or link.valid_from != link.valid_to for link in links)
        assert links[-1].valid_to is None


@given(data=st.data(), events=colliding_events(min_size=1, max_size=4))
def test_an_event_is_a_function_of_the_set_of_its_copies(data: st.DataObject, events: list[Event]) -> None:
    """Whole events and traces alike; and a trace of the merged event decides as the merged traces do."""
    copies = [msgspec.structs.replace(event, event_id=events[0].event_id, portal_id=PORTAL) for event in events]
    again = data.draw(st.permutations([*copies, *copies]))
    assert merge(again) == merge(copies)
    one, other = together(copies), together(again)
    assert sorted(one, key=lambda t: t.rank) == sorted(other, key=lambda t: t.rank)
    assert evidence_of_trace(merge_traces(one)) == evidence_of_trace(merge_traces(other)) == evidence_of(merge(copies).event)


@given(data=st.data(), events=colliding_events(portals=2, max_size=15))
def test_resolve_is_byte_equal_under_shuffling_and_duplication(data: st.DataObject, events: list[Event]) -> None:
    """`rejected` aside."""
    lines = [line(event) for event in events]
    again = data.draw(st.permutations([*lines, *lines[::2]]))
    one = resolve_lines(enumerate(lines, 1), Policy())
    other = resolve_lines(enumerate(again, 1), Policy())
    conflicts = [(row.reason, row.detail) for row in one.rejected]
    assert sorted(conflicts) == sorted((row.reason, row.detail) for row in other.rejected)
    one.rejected = other.rejected = []
    assert one.to_json() == other.to_json()
    assert one.to_json() == resolve_events(merged(events), Policy()).to_json()
