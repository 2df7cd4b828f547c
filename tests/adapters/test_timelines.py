"""`timeline`: a contact's events and reasons, by id, by address (also a former one), and a cookie's with all its owners."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline import output, timelines
from pipeline.adapters import clickhouse
from pipeline.adapters.avro import Registry
from pipeline.core.evidence import Rule
from pipeline.errors import UsageError, UserError
from pipeline.resolve import Resolution
from pipeline.settings import Settings
from tests.adapters.test_views import know
from tests.builders import HOUR, START, contact_merge, event_id, form_submission, page_view, retraction, utk

VIEW = page_view(1, at=START, title="Home")
FORM = form_submission(2, at=START + 1, email="old@x.io")
RENAMED = form_submission(3, at=START + HOUR, email="new@x.io")
OTHERS = page_view(4, utk="b")


@pytest.fixture
def meaning(settings: Settings) -> Iterator[Resolution]:
    clickhouse.migrate(settings)
    client = clickhouse.connect(settings)
    yield know(client, Registry(Settings()), VIEW, FORM, RENAMED, OTHERS)
    client.disconnect()


def ids(timeline: timelines.Timeline) -> list[str]:
    return [entry.event_id for entry in timeline]


def test_a_contact_is_found_by_id_by_address_and_by_a_former_address(settings: Settings, meaning: Resolution) -> None:
    contact = meaning.contacts[0].contact_id
    found = [
        timelines.timeline(settings, 1, contact=contact),
        timelines.timeline(settings, 1, email=" New@X.io "),
        timelines.timeline(settings, 1, email="old@x.io"),
    ]
    assert [ids(timeline) for timeline in found] == [[event_id(1), event_id(2), event_id(3)]] * 3
    assert found[2].about == (f"new@x.io, formerly old@x.io, contact {contact}",)


def test_a_contact_that_was_merged_is_shown_as_the_other(settings: Settings, meaning: Resolution) -> None:
    """By its id, and by its address, which is a former one of the other's now; a retracted event is in neither timeline."""
    client = clickhouse.connect(settings)
    merge = contact_merge(7, portal=3, at=START + 2, primary="a@x.io", secondary="b@x.io")
    forms = [form_submission(n, portal=3, at=START, utk=name, email=f"{name}@x.io") for n, name in ((5, "a"), (6, "b"))]
    gone = [page_view(8, portal=3, utk="b", at=START), retraction(9, portal=3, retracts=8, at=START + 1)]
    known = know(client, Registry(Settings()), *forms, merge, *gone, check=2)
    client.disconnect()
    merged = next(contact for contact in known.contacts if contact.merged_into)
    for asked in ({"email": "b@x.io"}, {"contact": merged.contact_id}, {"email": "a@x.io"}):
        shown = timelines.timeline(settings, 3, **asked)
        assert ids(shown) == [event_id(5), event_id(6), event_id(7)]
        assert shown.about == (f"a@x.io, formerly b@x.io, contact {merged.merged_into}",)
        assert timelines.what(shown.entries[-1]) == "b@x.io turned out to be a@x.io"


def test_a_cookie_shows_its_whole_history_with_its_owners(settings: Settings, meaning: Resolution) -> None:
    assert [(entry.email, entry.rule) for entry in timelines.timeline(settings, 1, utk=utk("b"))] == [(None, "cookie.unknown")]
    assert [entry.email for entry in timelines.timeline(settings, 1, utk=utk("a").upper())] == ["new@x.io"] * 3


def test_an_entry_tells_session_rule_and_evidence(settings: Settings, meaning: Resolution) -> None:
    first, _, last = timelines.timeline(settings, 1, email="new@x.io")
    assert (first.session_number, first.rule, first.evidence, first.title) == (1, "cookie.bound", FORM.event_id, "Home")
    assert (last.session_number, last.rule, last.evidence) == (2, "form.replaces_email", None)


def test_a_portal_sees_nothing_of_another(settings: Settings, meaning: Resolution) -> None:
    with pytest.raises(UserError, match="portal 2 has no contact"):
        timelines.timeline(settings, 2, email="new@x.io")
    assert len(timelines.timeline(settings, 2, utk=utk("a"))) == 0


@pytest.mark.parametrize("wrong", [{"email": "nobody"}, {"contact": "12"}, {"utk": "xyz"}])
def test_what_is_no_address_id_or_cookie_is_wrong_usage(settings: Settings, meaning: Resolution, wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong.values()))):
        timelines.timeline(settings, 1, **wrong)


def test_json_is_one_object_a_line(settings: Settings, meaning: Resolution, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    output.timeline(timelines.timeline(settings, 1, utk=utk("b")), as_json=True)
    (line,) = capfdbinary.readouterr().out.splitlines()
    assert json.loads(line) == {
        "portal_id": 1, "occurred_at": START, "event_id": event_id(4), "type": "page_view", "utk": utk("b"), "session_number": 1,
        "session_id": meaning.sessions[-1].session_id, "session_started_at": START, "rule": "cookie.unknown", "url": "https://example.com/",
    }  # fmt: skip


def entry(**values: Any) -> timelines.Entry:
    defaults: dict[str, Any] = {"portal_id": 1, "occurred_at": START, "event_id": event_id(9), "type": "page_view", "rule": "cookie.bound"}
    return timelines.Entry(**(defaults | values))


def test_what_happened_reads_as_words() -> None:
    assert [
        timelines.what(entry(title="Home")),
        timelines.what(entry(type="email_click", send_id="s", recipient_email="a@x.io", bot=True)),
        timelines.what(entry(type="form_submission", form_id="f", given_email="a@x.io")),
        timelines.what(entry(type="identify", given_email="a@x.io", external_id="7")),
        timelines.what(entry(type="contact_import", given_email="a@x.io")),
        timelines.what(entry(type="custom_event", name="bought")),
    ] == [
        "viewed 'Home'",
        "a machine clicked a link in mail s to a@x.io",
        "sent form f as a@x.io",
        "was identified as a@x.io and id 7",
        "was imported as a@x.io",
        "bought",
    ]


def test_why_names_the_rule_and_the_evidence() -> None:
    form = entry(event_id=event_id(1), type="form_submission", form_id="f")
    assert timelines.why(entry(email="a@x.io", evidence=event_id(1)), {event_id(1): form}) == (
        "a@x.io: the cookie is theirs (cookie.bound); evidence: sent form f, 2023-11-14 22:13:20"
    )
    guess = entry(rule="cookie.temporary", temporary_contact_id="c", evidence=event_id(5))
    assert timelines.why(guess, {}).startswith("possibly c: a guess")


def test_what_visitors_write_does_not_command_the_terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by escape sequences nor by new lines and what turns the direction of writing; nor is it the table's own markup."""
    monkeypatch.setenv("COLUMNS", "200")
    hostile = entry(type="custom_event", name="\x1b[31m\x9bm\u202e\na", url="https://x.io/[/b]", email="[/x]@x.io")
    output.timeline(timelines.Timeline(("[/x]@x.io \x1b[2J",), (hostile,)), as_json=False)
    shown = capfd.readouterr().out
    assert r"[/x]@x.io \x1b[2J" in shown
    assert r"\x1b[31m\x9bm\u202e\na  https://x.io/[/b]" in shown
    assert "\x1b" not in shown


def test_every_rule_has_words() -> None:
    assert set(timelines.RULES) >= set(Rule)
