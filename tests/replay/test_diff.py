"""What a switch, or events that are not published yet, would change: the same as two resolutions differ by."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from pipeline.adapters import kafka
from pipeline.core.copies import merge
from pipeline.core.events import Event
from pipeline.core.outcomes import Refused
from pipeline.core.parsing import parse_line
from pipeline.core.policy import Policy, parse_policy
from pipeline.errors import UserError
from pipeline.replay import registry
from pipeline.replay.changes import EXAMPLES, KINDS, Changes, between
from pipeline.replay.diff import diff
from pipeline.replay.registry import About, Generation
from pipeline.replay.what_if import what_if
from pipeline.resolve import Resolution, resolve_events
from pipeline.settings import Settings
from tests.adapters.test_views import by_id
from tests.builders import HOUR, START, event_id, form_submission, line, page_view, retraction, utk
from tests.cli.conftest import Run
from tests.end_to_end.collisions import collisions
from tests.replay.conftest import built, in_kafka, pointed

OTHER = parse_policy("", ["sessions.gap=5m", "identity.rebind=move_all", "identity.replaced_email=keep"])

pytestmark = pytest.mark.timeout(400)


def events(count: int, seed: int) -> list[Event]:
    return [event for event in map(parse_line, collisions(count, seed)) if not isinstance(event, Refused)]


def resolved(events: Iterable[Event], policy: Policy) -> Resolution:
    return resolve_events([merge(copies).event for copies in by_id(list(events))], policy)


def are_the_same(found: Changes, before: Resolution, after: Resolution) -> None:
    """Equal counts by rule; the examples are among what differs."""
    expected = between(before, after)
    assert list(found) == [kind.name for kind in KINDS]
    for kind in KINDS:
        counts = {(group.what, group.rule_before, group.rule_after): group.count for group in found[kind.name]}
        assert counts == {(group.what, group.rule_before, group.rule_after): group.count for group in expected[kind.name]}, kind.name
        rows = [{tuple(getattr(row, name) for name in kind.key): row for row in getattr(side, kind.name)} for side in (before, after)]
        for group in found[kind.name]:
            assert len(group.examples) == min(group.count, EXAMPLES)
            for example in group.examples:
                for side, said in zip(rows, (example.before, example.after), strict=True):
                    row = side.get(tuple(example.key.values()))
                    assert said == (row and {name: getattr(row, name) for name in kind.fields})


def test_a_switch_to_another_policy_changes_what_resolve_says(settings: Settings) -> None:
    """All kinds of changes, by rule; in the direction from what readers see."""
    some = events(2_000, 8)
    built(settings, 1, *some)
    built(settings, 2, *some, policy=OTHER)
    in_kafka(settings)
    usual, other = resolved(some, Policy()), resolved(some, OTHER)
    told = diff(settings)
    assert (told.before, told.after, told.behind) == (1, 2, {})
    assert all(told.changes[kind.name] for kind in KINDS), "this policy changes something of every kind"
    are_the_same(told.changes, usual, other)
    pointed(settings, 2)
    are_the_same(diff(settings, 1).changes, other, usual)


def test_no_difference(settings: Settings) -> None:
    some = events(300, 9)
    built(settings, 1, *some)
    built(settings, 2, *some)
    in_kafka(settings)
    assert diff(settings).changes == {kind.name: [] for kind in KINDS}


def test_what_a_generation_has_yet_to_read_or_never_will_is_said_with_the_difference(settings: Settings, run: Run) -> None:
    """One is behind, and knows only what was published from a time on."""
    built(settings, 1, page_view(1), page_view(2))
    built(settings, 2, page_view(2))
    known = registry.read(settings).of(2)
    registry.write(settings, Generation(2, known.state, known.policy, About(since=START), known.version))
    in_kafka(settings)
    producer = kafka.producer(settings)
    producer.produce(kafka.topic_name(settings, "page-views"), b"x", b"y", 0)
    assert producer.flush(30) == 0
    for part in ("sessionize", "record"):
        consumer = kafka.consumer(settings, part)
        consumer.commit(offsets=[TopicPartition(kafka.topic_name(settings, "page-views"), 0, 1)], asynchronous=False)
        consumer.close()
    told = diff(settings)
    assert (list(told.behind), told.since) == ([2], START)
    assert "records behind" in told.behind[2]
    lines = run("replay", "diff", **settings.environment()).out.splitlines()
    assert lines[1] == f"  generation 2 has not caught up, so that some of this is only not there yet: {told.behind[2]}"
    assert lines[2] == "  generation 2 knows only what was published from 2023-11-14 22:13:20 UTC on: all before that is gone from it"
    as_json = json.loads(run("replay", "diff", "--json", **settings.environment()).out)
    assert (as_json["behind"], as_json["since"]) == ({"2": told.behind[2]}, START)


def test_what_cannot_be_compared(settings: Settings) -> None:
    built(settings, 1)
    with pytest.raises(UserError, match="there is no other generation that has been rebuilt: begin with `replay start`"):
        diff(settings)
    with pytest.raises(UserError, match="readers see generation 1 already: name another one"):
        diff(settings, 1)


def test_events_before_they_are_published(settings: Settings, tmp_path: Path) -> None:
    """Whatever they are: late, on known cookies, of known people, in several portals; the live generation's policy counts."""
    groups = by_id(events(2_000, 10))
    known, new = [copy for group in groups[::3] for copy in group], [copy for group in groups[1::40] for copy in group]
    built(settings, 1)
    built(settings, 2, *known, policy=OTHER)
    pointed(settings, 2)
    file = tmp_path / "new.jsonl"
    file.write_bytes(b"\n".join([*map(line, new), b"{}"]))
    told = what_if(settings, file)
    assert (told.generation, told.events, told.refused) == (2, len(new), 1)
    assert all(told.changes[kind.name] for kind in KINDS)
    are_the_same(told.changes, resolved(known, OTHER), resolved([*known, *new], OTHER))


def test_further_copies_of_events_that_have_several(settings: Settings, tmp_path: Path) -> None:
    """Whichever copy is the new one: it is merged with each that is stored, those included that contradict what readers see."""
    known: list[Event] = []
    new: list[Event] = []
    for number in range(30):
        copies: list[Event] = [
            page_view(number, utk=None, title="T"),
            page_view(number, utk="b", received_at=START),
            page_view(number, utk=f"c{number}", title="T"),
        ]
        new.append(copies.pop(number % 3))
        known += copies
    built(settings, 1, *known)
    file = tmp_path / "new.jsonl"
    file.write_bytes(b"\n".join(map(line, new)))
    are_the_same(what_if(settings, file).changes, resolved(known, Policy()), resolved([*known, *new], Policy()))


def test_a_further_copy_that_retracts_something_else(settings: Settings, tmp_path: Path) -> None:
    """What the retraction was about counts again."""
    known = (page_view(1, utk="a"), page_view(2, utk="b"), retraction(3, retracts=1))
    new = retraction(3, retracts=2, properties={"why": "a mistake"})
    built(settings, 1, *known)
    file = tmp_path / "new.jsonl"
    file.write_bytes(line(new))
    told = what_if(settings, file).changes
    assert [(group.what, group.count) for group in told["sessions"]] == [("gone", 1), ("new", 1)]
    are_the_same(told, resolved(known, Policy()), resolved([*known, new], Policy()))


def test_many_events_before_they_are_published(settings: Settings, tmp_path: Path) -> None:
    """More of one portal, on more cookies, than one query may name."""
    built(settings, 1, page_view(1))
    file = tmp_path / "new.jsonl"
    file.write_bytes(b"\n".join(line(page_view(number, utk=f"cookie-{number}")) for number in range(1, 10_001)))
    told = what_if(settings, file)
    assert sum(group.count for group in told.changes["events"] if group.what == "new") == 9_999


def test_in_words(settings: Settings, run: Run, tmp_path: Path) -> None:
    """A form that takes a cookie over, seen from both sides: a policy, and one more event."""
    known = form_submission(5, at=START - 1, utk="b", email="b@x.io")
    mine = (known, page_view(1), form_submission(2, at=START + 1, email="a@x.io"), page_view(3, at=START + HOUR))
    theirs = form_submission(4, at=START + 2 * HOUR, email="b@x.io")
    built(settings, 1, *mine)
    file = tmp_path / "theirs.jsonl"
    file.write_bytes(line(theirs))
    before = run("replay", "diff", "--with", str(file), **settings.environment()).out.splitlines()
    assert before[0] == "1 events, if they were published, in generation 1, which readers see:"
    assert "contacts: no change" in before
    assert "links: 1 new, 1 changed" in before
    assert "  1 new, form.known_email; such as" in before
    built(settings, 2, *mine, theirs, policy=parse_policy("", ["identity.rebind=move_all"]))
    in_kafka(settings)
    told = run("replay", "diff", **settings.environment()).out.splitlines()
    assert told[0] == "from generation 1, which readers see, to generation 2:"
    assert "events by owner: 1 new, 2 changed" in told
    assert "  2 changed, cookie.bound; such as" in told
    as_json = json.loads(run("replay", "diff", "2", "--json", **settings.environment()).out)
    assert [group["count"] for group in as_json["changes"]["events"]] == [2, 1]
    assert as_json["changes"]["events"][1]["examples"][0]["key"] == {"portal_id": 1, "event_id": event_id(4)}
    assert as_json["changes"]["links"][0]["examples"][0]["key"]["utk"] == utk("a")
    assert run("replay", "diff", "2", "--with", str(file), **settings.environment()).code == 2
