"""Sessions: the plain fold, one test a sentence of the spec (sessions.md)."""

import uuid
from collections.abc import Iterable
from typing import Any

import pytest

from pipeline.core.events import Event
from pipeline.core.policy import Duration, SessionPolicy
from pipeline.core.sessions import Session, activity_of, fold, traffic_source
from tests.builders import DAY, MINUTE, START, contact_import, custom_event, email_click, event_id, form_submission, identify, page_view

POLICY = SessionPolicy()


def sessions_of(events: Iterable[Event], policy: SessionPolicy = POLICY) -> list[Session]:
    """The sessions of events of one cookie, given in any order."""
    return fold(sorted(a for a in map(activity_of, events) if a is not None), policy)


def view(minutes: float, number: int | None = None, **fields: Any) -> Event:
    return page_view(number, at=START + int(minutes * MINUTE), **fields)


def test_exactly_the_gap_continues_the_session() -> None:
    """30 minutes to the millisecond are still the same visit."""
    assert [s.activity_count for s in sessions_of([view(0), view(30)])] == [2]


def test_one_millisecond_over_the_gap_starts_a_session() -> None:
    late = page_view(at=START + 30 * MINUTE + 1)
    assert [s.activity_count for s in sessions_of([view(0), late])] == [1, 1]


def test_the_gap_is_a_policy() -> None:
    assert len(sessions_of([view(0), view(2)], SessionPolicy(gap=Duration(MINUTE)))) == 2


def test_a_restarted_browser_starts_a_session() -> None:
    """`new_browser_session` splits however short the pause is, even at the same millisecond."""
    restarted = sessions_of([view(0, 1), view(0, 2, new_browser_session=True)])
    assert [(s.number, s.first_event_id) for s in restarted] == [(1, event_id(1)), (2, event_id(2))]


def test_the_first_event_may_be_a_restart() -> None:
    assert [s.number for s in sessions_of([view(0, new_browser_session=True)])] == [1]


def test_equal_times_are_ordered_by_event_id() -> None:
    """The session is named by the smallest event id of its first millisecond."""
    one, two = view(0, 2, url="https://x.io/2"), view(0, 1, url="https://x.io/1")
    [session] = sessions_of([one, two])
    assert (session.first_event_id, session.entry_url, session.exit_url) == (event_id(1), "https://x.io/1", "https://x.io/2")


def test_what_counts_as_activity() -> None:
    """Everything with a cookie but contact imports and the clicks of bots; `use_cookie` matters to identity only."""
    events = [
        view(0),
        custom_event(at=START + 1),
        identify(at=START + 2, email="a@x.io"),
        form_submission(at=START + 3, use_cookie=False),
        email_click(at=START + 4),
    ]
    others = [email_click(at=START + 5, bot=True), contact_import(at=START + 6), page_view(at=START + 7, utk=None)]
    [session] = sessions_of(events + others)
    assert (session.activity_count, session.page_view_count, session.ended_at) == (5, 1, START + 4)


def test_one_event_between_two_sessions_joins_them() -> None:
    apart = [view(0, 1), view(50, 2)]
    assert len(sessions_of(apart)) == 2
    [joined] = sessions_of([*apart, view(25, 3)])
    assert (joined.first_event_id, joined.activity_count) == (event_id(1), 3)


def test_a_late_first_event_renumbers() -> None:
    """The sessions after it count one up and know their new predecessor; the one after it keeps its id."""
    [second] = sessions_of([view(100, 2)])
    first, renumbered = sessions_of([view(0, 1), view(100, 2)])
    assert (second.number, renumbered.number) == (1, 2)
    assert (second.previous_started_at, renumbered.previous_started_at) == (None, first.started_at)
    assert second.id_of(1, "a" * 32) == renumbered.id_of(1, "a" * 32)  # type: ignore[arg-type]


def test_the_id_is_the_uuid5_of_portal_cookie_and_first_event() -> None:
    """Written out once, so that a change of the namespace or of the name is seen."""
    [session] = sessions_of([view(0, 7)])
    expected = uuid.uuid5(uuid.UUID("5a1c1d0e-7c2b-5e0f-9d51-0a6c5f3b7e42"), f"3|{'ab' * 16}|{event_id(7)}")
    assert session.id_of(3, "ab" * 16) == str(expected)  # type: ignore[arg-type]


def test_entry_and_exit_are_the_first_and_last_page_view() -> None:
    """Other activity has no url; without a page view there is none."""
    events = [
        custom_event(at=START),
        view(1, url="https://x.io/in"),
        view(2, url="https://x.io/mid"),
        view(3, url="https://x.io/out"),
        custom_event(at=START + 4 * MINUTE),
    ]
    [session] = sessions_of(events)
    assert (session.entry_url, session.exit_url) == ("https://x.io/in", "https://x.io/out")
    [silent] = sessions_of([custom_event(at=START)])
    assert (silent.entry_url, silent.exit_url, silent.page_view_count, silent.source) == (None, None, 0, None)


def test_the_source_is_that_of_the_first_page_view_with_a_known_one() -> None:
    [session] = sessions_of([view(0), view(1, url="https://x.io/?gclid=1"), view(2, url="https://x.io/?fbclid=1")])
    assert session.source == "gclid"


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        (["?gclid=1", "?fbclid=1"], ["gclid", "fbclid"]),
        (["?gclid=1", "?gclid=2"], ["gclid"]),
        (["?gclid=1", ""], ["gclid"]),
        (["", "?gclid=1"], ["gclid"]),
        (["", "?gclid=1", "", "?fbclid=1", "?gclid=1"], ["gclid", "fbclid", "gclid"]),
    ],
    ids=["another splits", "the same does not", "to unknown never", "from unknown never", "against the session's, not the last"],
)
def test_policy_split_on_source_change(urls: list[str], expected: list[str]) -> None:
    """A page view whose known source differs from the session's starts a session; off by default."""
    events = [view(n, url=f"https://x.io/{url}") for n, url in enumerate(urls)]
    split = sessions_of(events, SessionPolicy(split_on_source_change=True))
    assert [s.source for s in split] == expected
    assert len(sessions_of(events)) == 1


@pytest.mark.parametrize(
    ("url", "referrer", "expected"),
    [
        ("https://x.io/", None, None),
        ("https://x.io/?utm_source=a&utm_medium=b&utm_campaign=c", None, "a/b/c"),
        ("https://x.io/?utm_campaign=c&gclid=1", "https://y.io/", "//c"),
        ("https://x.io/?utm_source=a&utm_source=b", None, "a//"),
        ("https://x.io/?utm_source=&gclid=1", None, "gclid"),
        ("https://x.io/?utm_source=a%20b+c", None, "a b c//"),
        ("https://x.io/?utm_source=b+c", None, "b c//"),
        ("https://x.io/?utm_source=b%20c", None, "b c//"),
        ("https://x.io/?twclid=1&dclid=2", None, "dclid"),
        ("https://x.io/?gclid=&li_fat_id=2", None, "li_fat_id"),
        ("https://x.io/#?gclid=1", None, None),
        ("https://x.io/?a=b", "https://Search.Example:8443/?q=1", "search.example"),
        ("https://X.io:8080/", "http://x.IO/", None),
        ("https://x.io/", "https://www.x.io/", "www.x.io"),
    ],
)
def test_traffic_source(url: str, referrer: str | None, expected: str | None) -> None:
    """Campaign first, then the advertisers' click ids in the spec's order, then another site."""
    assert traffic_source(url, referrer) == expected


def test_sessions_number_from_one_in_time_order() -> None:
    days = [page_view(at=START + n * DAY) for n in (2, 0, 1)]
    assert [(s.number, s.started_at) for s in sessions_of(days)] == [(1, START), (2, START + DAY), (3, START + 2 * DAY)]
