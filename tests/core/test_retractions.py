"""Retractions: what never happened after all, alone and on the whole result (spec: events.md, "Retractions")."""

from collections.abc import Iterable

import pytest

from pipeline.core.events import Event
from pipeline.core.policy import Policy
from pipeline.core.retractions import Retractions, retracted
from pipeline.resolve import resolve_events
from tests.builders import START, contact_merge, event_id, form_submission, page_view, retraction


def gone(*events: Event) -> dict[int, int]:
    """Numbers of the retracted events, and of what retracted them; the same in both orders of the set."""
    found = retracted(events)
    assert found == retracted(events[::-1])
    numbers = {event_id(number): number for number in range(20)}
    return {numbers[id_]: numbers[by] for (_, id_), by in found.items()}


VIEW = page_view(1, at=10)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ((VIEW, retraction(2, at=11)), {1: 2}),
        ((VIEW, retraction(2, at=10)), {1: 2}),
        ((VIEW, retraction(0, at=10)), {}),
        ((VIEW, retraction(2, at=9)), {}),
        ((VIEW, retraction(2, at=11, portal=2)), {}),
        ((VIEW, retraction(2, at=11), retraction(3, at=12, retracts=2)), {2: 3}),
        ((VIEW, retraction(2, at=12), retraction(3, at=11, retracts=2)), {1: 2}),
        ((VIEW, retraction(2, at=11), retraction(3, at=12, retracts=2), retraction(4, at=13, retracts=3)), {1: 2, 3: 4}),
        ((VIEW, retraction(2, at=11), retraction(3, at=12), retraction(4, at=13, retracts=3)), {1: 2, 3: 4}),
        ((VIEW, retraction(2, at=11, retracts=2)), {}),
        ((retraction(2, at=11, retracts=3), retraction(3, at=12, retracts=2)), {2: 3}),
        ((retraction(2, at=11, retracts=7),), {}),
    ],
    ids=[
        "an earlier event", "an event of its time with a smaller id", "not one of its time with a greater id", "not a later event",
        "not another portal's", "a retraction can be retracted", "but only by a later one", "and that again", "another one still acts",
        "not itself", "of two that name each other the later one", "an event that never comes",
    ],
)  # fmt: skip
def test_what_a_retraction_acts_on(events: tuple[Event, ...], expected: dict[int, int]) -> None:
    assert gone(*events) == expected


def test_a_long_chain_is_decided_from_the_newest_backwards() -> None:
    """Every second one acts, however long it is."""
    chain = [retraction(n, at=10 + n, retracts=n - 1) for n in range(2, 5_001)]
    found = retracted([VIEW, *chain])
    assert {id_ for _, id_ in found} == {event_id(n) for n in range(1, 5_000) if n % 2 == 1}


def test_what_hangs_together_is_found_as_it_comes_in() -> None:
    live = Retractions()
    one, two, three = event_id(1), event_id(2), event_id(3)
    assert live.note(one, None) == set()
    assert live.note(three, two) == {two}
    assert live.note(two, one) == {one, three}
    assert live.note(two, None) == {one, three}, "what it retracted before is concerned, too"
    assert live.note(one, None) == set()


def without(events: Iterable[Event], *numbers: int) -> list[Event]:
    return [event for event in events if event.event_id not in {event_id(number) for number in numbers}]


HISTORY = [
    page_view(1, at=START),
    page_view(2, at=START + 1_000, url="https://x.io/?utm_source=news"),
    form_submission(3, at=START + 2_000, email="a@x.io"),
    form_submission(4, at=START + 3_000, utk="b", email="b@x.io"),
    contact_merge(5, at=START + 4_000),
    page_view(6, at=START + 5_000_000),
]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_the_result_is_what_it_would_be_without_the_event(number: int) -> None:
    """Views leave timeline and session, evidence and merges never happened; and a retraction of the retraction brings all back."""
    undo, redo = retraction(8, at=START + 9_000_000, retracts=number), retraction(9, at=START + 9_000_001, retracts=8)
    expected = resolve_events([*without(HISTORY, number), undo], Policy())
    assert resolve_events([*HISTORY, undo], Policy()) == resolve_events([undo, *HISTORY[::-1]], Policy()) == expected
    assert resolve_events([*HISTORY, undo, redo], Policy()) == resolve_events([*HISTORY, redo], Policy())


def test_a_retraction_is_an_event_of_nobody() -> None:
    [row] = resolve_events([retraction(2, retracts=1)], Policy()).events
    assert (row.type, row.rule, row.contact_id, row.session_id) == ("retraction", "cookie.unknown", None, None)
