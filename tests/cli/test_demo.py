"""What the demo and the benchmark publish: valid, the same each time, and playing what they say they play."""

from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from bench.traffic import Traffic
from infra.demo import nasa, visibility
from infra.demo.script import EMAIL, Script, script
from infra.demo.visitors import examples
from pipeline.core.events import Event, PageView
from pipeline.core.parsing import parse_line
from pipeline.core.policy import Policy
from pipeline.resolve import Resolution, resolve_lines


@pytest.fixture(scope="module")
def scenes() -> Script:
    return script()


@pytest.fixture(scope="module")
def resolved(scenes: Script) -> Resolution:
    return visibility.resolved((*scenes.history, *scenes.forms))


def parsed(events: Iterable[dict[str, Any]]) -> list[Event]:
    """The events; a line that is none fails the test."""
    outcomes = [parse_line(orjson.dumps(event)) for event in events]
    assert all(isinstance(outcome, Event) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, Event)]


def test_log_becomes_page_views() -> None:
    """The day of the log has 8,948 page views of 2,236 hosts; everything else in it was no page."""
    views = parsed(nasa.page_views())
    assert len(views) == 8_948
    assert len({view.utk for view in views}) == 2_236
    assert all(isinstance(view, PageView) for view in views)


@pytest.mark.parametrize(
    ("path", "method", "response", "is_page"),
    [
        ("/", "GET", "200", True),
        ("/shuttle/missions/missions.html", "GET", "200", True),
        ("/shuttle/missions/missions.HTM?x=1.gif", "GET", "304", True),
        ("/shuttle/countdown/", "GET", "200", True),
        ("/history/rocket-history.txt", "GET", "200", True),
        ("/images/launch-logo.gif", "GET", "200", False),
        ("/htbin/cdt_main.pl", "GET", "200", False),
        ("/cgi-bin/imagemap/countdown70", "GET", "302", False),
        ("/missing.html", "GET", "404", False),
        ("/ksc.html", "HEAD", "200", False),
    ],
)
def test_what_is_a_page(path: str, method: str, response: str, is_page: bool) -> None:
    """A page view is a document that was fetched."""
    assert nasa.is_page(nasa.Request("host", "-", "807256800", method, path, response, "1", "", "")) is is_page


def test_demo_is_the_same_each_time(scenes: Script) -> None:
    """Nothing in the demo depends on chance or time, and all of it is valid."""
    assert script() == scenes
    assert len({event.event_id for event in parsed((*scenes.history, *scenes.forms))}) == 8_977


@pytest.mark.parametrize(
    ("portal", "emails"),
    [
        (11, ["a@x.io"]),
        (12, ["a@x.io"]),
        (13, ["b@x.io"]),
        (23, ["a@x.io", "b@x.io"]),
        (14, ["a@x.io", "c@x.io"]),
        (15, ["a@x.io", "b@x.io"]),
        (16, ["a@x.io", "c@x.io"]),
    ],
)
def test_visitors_play_the_examples(resolved: Resolution, portal: int, emails: list[str]) -> None:
    """Each example of identity.md comes to the contacts that it says."""
    assert sorted(str(contact.email) for contact in resolved.contacts if contact.portal_id == portal) == emails


def test_owners_in_the_examples(resolved: Resolution) -> None:
    """All views of example 1 are a's; the view of examples 4 and 6 is c's in the end; those of example 5 are a's, then b's."""
    emails = {contact.contact_id: contact.email for contact in resolved.contacts}
    views: dict[int, list[str | None]] = {example.portal: [] for example in examples()}
    for row in resolved.events:
        if row.portal_id in views and row.type == "page_view":
            views[row.portal_id].append(emails.get(str(row.contact_id)))
    assert views == {
        11: ["a@x.io"] * 3,
        12: [],
        13: ["b@x.io"],
        23: ["a@x.io"],
        14: ["c@x.io"],
        15: ["a@x.io", "b@x.io"],
        16: ["c@x.io"],
    }


def test_reader_of_the_log_becomes_a_contact(resolved: Resolution) -> None:
    """The reader's seven views, in two sessions, are the contact's in the end."""
    (contact,) = [contact for contact in resolved.contacts if contact.email == EMAIL]
    theirs = [row for row in resolved.events if row.contact_id == contact.contact_id]
    assert [row.type for row in theirs] == ["page_view"] * 7 + ["form_submission"]
    assert [row.session_number for row in theirs] == [1, 1, 1, 2, 2, 2, 2, 2]


def test_traffic_is_as_much_as_asked_for() -> None:
    """The benchmark's traffic has exactly the events and cookies asked for, in the order of time, all valid; some are undone,
    some contacts merged.
    """
    lines = list(Traffic(events=20_000, cookies=2_000).lines())
    events = parsed(orjson.loads(line) for line in lines)
    assert len({event.event_id for event in events}) == 20_000
    assert len({event.utk for event in events} - {None}) == 2_000
    assert [event.occurred_at for event in events] == sorted(event.occurred_at for event in events)
    resolved = resolve_lines(enumerate(lines, start=1), Policy())
    assert not resolved.rejected
    assert len(resolved.events) < 20_000, "nothing was retracted"
    assert any(contact.merged_into for contact in resolved.contacts)


def test_traffic_follows_from_its_seed() -> None:
    """The same seed, the same events; another seed, others."""
    assert list(Traffic(500, 50, seed=1).lines()) == list(Traffic(500, 50, seed=1).lines())
    assert list(Traffic(500, 50, seed=1).lines()) != list(Traffic(500, 50, seed=2).lines())
