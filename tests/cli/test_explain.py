"""`explain`, on the real ClickHouse: in words, as JSON, and under another policy."""

import json
from collections.abc import Callable

import pytest

from pipeline.adapters import clickhouse
from pipeline.adapters.avro import Registry
from pipeline.core.events import PortalId
from pipeline.core.ids import contact_id
from pipeline.settings import Settings
from tests.adapters.test_views import know
from tests.builders import HOUR, START, contact_merge, event_id, form_submission, identify, page_view, retraction, utk
from tests.cli.conftest import Ended, Run

EVENTS = (
    page_view(1, at=START),
    form_submission(2, at=START + 10, email="a@x.io"),
    page_view(3, at=START + 15),
    form_submission(4, at=START + HOUR, utk="b", email="b@x.io"),
    form_submission(5, at=START + 2 * HOUR, email="b@x.io"),
    page_view(6, at=START, utk="c"),
    page_view(7, portal=2, at=START),
)


@pytest.fixture
def explain(settings: Settings, run: Run) -> Callable[..., Ended]:
    """Runs `explain` where these events are known."""
    clickhouse.migrate(settings)
    client = clickhouse.connect(settings)
    know(client, Registry(Settings()), *EVENTS)
    client.disconnect()
    return lambda *arguments: run("explain", *arguments, **settings.environment())


def test_an_event_in_words(explain: Callable[..., Ended]) -> None:
    lines = explain("--event", event_id(3)).out.splitlines()
    assert lines[0].startswith(f"page_view {event_id(3)}")
    assert "is a@x.io (" in lines[0]
    assert lines[0].endswith(f"the cookie is theirs (cookie.bound), by {event_id(2)}")
    assert any("the form made the contact (form.new_contact)" in line for line in lines)
    assert any(f"bound cookie {utk('a')} to a@x.io" in line and "from the beginning" in line for line in lines)


def test_what_visitors_write_does_not_command_the_terminal(settings: Settings, explain: Callable[..., Ended]) -> None:
    client = clickhouse.connect(settings)
    know(client, Registry(Settings()), identify(8, portal=4, utk="x", email="x@x.io", external_id="\x1b[2J\nfaked"))
    client.disconnect()
    lines = explain("--utk", utk("x")).out.splitlines()
    assert lines[-2].endswith(r"the id \x1b[2J\nfaked")


def test_under_another_policy(explain: Callable[..., Ended]) -> None:
    """The view between two forms is the first contact's, unless a later form takes the whole history."""
    told = explain("--event", event_id(3), "--set", "identity.rebind=move_all").out
    now, _, otherwise = told.partition("With identity.rebind=move_all:")
    assert "is a@x.io (" in now
    assert "is b@x.io (" in otherwise
    assert f"took cookie {utk('a')} from a@x.io" in otherwise
    assert explain("--utk", utk("c"), "--set", "identity.rebind=move_all").out.endswith("With identity.rebind=move_all:\n  the same\n")


def test_under_another_policy_as_json(explain: Callable[..., Ended]) -> None:
    """Whose it is now and whose it would be, side by side."""
    shown = json.loads(explain("--event", event_id(3), "--set", "identity.rebind=move_all", "--json").out)
    assert shown["overrides"] == ["identity.rebind=move_all"]
    owners = {side: shown[side]["owner"] for side in ("now", "otherwise")}
    assert [owner["evidence"] for owner in owners.values()] == [event_id(2), event_id(5)]
    assert [owner["contact_id"] for owner in owners.values()] == [contact_id(PortalId(1), email, 0) for email in ("a@x.io", "b@x.io")]
    assert [len(shown[side]["links"]) for side in owners] == [2, 1]
    assert json.loads(explain("--event", event_id(3), "--json").out)["otherwise"] is None


def test_a_policy_that_decides_nobodys_identity_is_refused(run: Run) -> None:
    """Before anything is asked: the answer could only be 'the same'."""
    for override in ("sessions.gap=5m", " sessions.split_on_source_change = true"):
        ended = run("explain", "--utk", utk("a"), "--set", "identity.rebind=move_all", "--set", override, PIPELINE_CLICKHOUSE__PORT="1")
        assert ended.code == 2
        assert ended.err.startswith(f"error: --set {override}: explain tells whose things are, and no policy of sessions changes that")


def test_a_cookie_and_its_contact_as_json(explain: Callable[..., Ended]) -> None:
    cookie = json.loads(explain("--utk", utk("a"), "--json", "--portal", "1").out)
    owners = [entry["link"]["contact_id"] for entry in cookie["now"]["links"]]
    assert [entry["link"]["rule"] for entry in cookie["now"]["links"]] == ["form.new_contact", "form.known_email"]
    assert [step["evidence"]["event_id"] for step in cookie["now"]["chain"]] == [event_id(2), event_id(4), event_id(5)]
    contact = json.loads(explain("--contact", owners[1], "--json").out)
    assert contact["now"]["contact"]["email"] == "b@x.io"
    assert {entry["utk"] for entry in contact["now"]["links"]} == {utk("a"), utk("b")}


UNDONE = (
    form_submission(11, at=START, portal=3, utk="n"),
    form_submission(12, at=START + 1, portal=3, utk="x", email="a@x.io"),
    form_submission(13, at=START + 2, portal=3, utk="n", email="a@x.io"),
    form_submission(14, at=START + 3, portal=3, utk="y", email="b@x.io"),
    contact_merge(15, at=START + 4, portal=3),
    form_submission(16, at=START + 5, portal=3, utk="x", email="wrong@x.io"),
    retraction(17, at=START + 6, portal=3, retracts=16),
    page_view(18, at=START, portal=3, utk="x"),
    retraction(19, at=START + 6, portal=3, retracts=18),
)


@pytest.fixture
def undone(settings: Settings, explain: Callable[..., Ended]) -> Callable[..., Ended]:
    """The same in a portal where contacts were merged and events retracted."""
    client = clickhouse.connect(settings)
    know(client, Registry(Settings()), *UNDONE, check=2)
    client.disconnect()
    return lambda *arguments: explain("--portal", "3", *arguments)


def test_retractions_merges_and_absorbed_contacts_are_steps_of_the_chain(undone: Callable[..., Ended]) -> None:
    """In words and as JSON, each at its place."""
    told = undone("--utk", utk("x")).out
    assert f"retraction {event_id(17)}: form_submission {event_id(16)} of 2023-11-14 22:13:20 never happened" in told
    assert f"contact_merge {event_id(15)}: the other contact is this one (merge.merged)" in told
    chain = json.loads(undone("--utk", utk("n"), "--json").out)["now"]["chain"]
    assert [step["rule"] for step in chain] == [
        "form.new_without_email", "form.new_contact", "form.known_email", "form.new_contact", "merge.merged",
    ]  # fmt: skip
    person = chain[1]["contact_id"]
    absorbed, merged = ([c["after"]["merged_into"] for c in step["contacts"]] for step in (chain[2], chain[4]))
    assert person in absorbed
    assert person in merged
    cookie = json.loads(undone("--utk", utk("x"), "--json").out)["now"]["chain"]
    assert cookie[-1] == {
        "retraction": {"at": START + 6, "event_id": event_id(17)},
        "retracted": {"at": START + 5, "event_id": event_id(16), "kind": "form_submission"},
    }
    assert f"merged contact {chain[0]['contact_id']} into a@x.io" in undone("--utk", utk("n")).out
    kept = undone("--utk", utk("n"), "--set", "identity.anonymous_contact=keep").out.partition("With")[2]
    assert f"merged contact {chain[0]['contact_id']}" not in kept


def test_an_event_that_was_retracted_says_by_what(undone: Callable[..., Ended]) -> None:
    lines = undone("--event", event_id(18)).out.splitlines()
    assert lines[0].endswith(f"does not count: it was retracted at 2023-11-14 22:13:20, by {event_id(19)}")
    told = json.loads(undone("--event", event_id(18), "--json").out)["now"]
    assert (told["owner"], told["retracted_by"]) == (None, event_id(19))


def test_a_contact_that_was_merged_says_into_whom(undone: Callable[..., Ended]) -> None:
    merged = contact_id(PortalId(3), "b@x.io", 0)
    told = undone("--contact", merged).out
    assert "merged into a@x.io" in told
    assert f"merged b@x.io ({merged}) into a@x.io" in told


def test_what_is_not_there(explain: Callable[..., Ended]) -> None:
    """Each names what was asked for, and the portal."""
    assert explain("--utk", utk("c")).out == f"cookie {utk('c')}\n  the cookie is nobody's\n"
    assert f"portals 1, 2 have the cookie {utk('a')}" in explain("--utk", utk("a")).err
    assert f"there is no event {event_id(99)}" in explain("--event", event_id(99)).err
    assert f"portal 2 has no event {event_id(1)}" in explain("--event", event_id(1), "--portal", "2").err
    assert f"portal 1 has no contact {event_id(1)}" in explain("--contact", event_id(1), "--portal", "1").err
    assert explain().code == explain("--utk", "a", "--event", "b").code == explain("--contact", "Kim").code == 2
