"""Identity: the examples of the spec, then every rule and every policy (identity.md)."""

from collections.abc import Iterable
from typing import Any

import pytest

from pipeline.core.events import Event, PortalId
from pipeline.core.evidence import Evidence, evidence_of
from pipeline.core.identity import Fold, fold
from pipeline.core.ids import contact_id
from pipeline.core.links import Link
from pipeline.core.policy import IdentityPolicy, parse_policy
from pipeline.core.timeline import owner_of
from tests.builders import contact_import, email_click, event_id, form_submission, identify, page_view, utk

PORTAL = PortalId(1)
A, B, C = "a@x.io", "b@x.io", "c@x.io"


def policy(**switches: str) -> IdentityPolicy:
    return parse_policy(overrides=[f"identity.{name}={value}" for name, value in switches.items()]).identity


def folded(*events: Event, **switches: str) -> Fold:
    return fold(PORTAL, (e for e in map(evidence_of, events) if e is not None), policy(**switches))


def person(seed: str, k: int = 0) -> str:
    return contact_id(PORTAL, seed, k)


def owners(identities: Fold, events: Iterable[Event]) -> list[str | None]:
    return [owner_of(event, identities).contact_id for event in events]


def links(identities: Fold, cookie: str) -> list[tuple[str, str, int | None, int | None]]:
    return [(link.contact_id, link.status, link.valid_from, link.valid_to) for link in identities.links.get(utk(cookie), ())]


def rules(identities: Fold, *events: Event) -> list[str]:
    return [identities.outcomes[event.event_id].rule.value for event in events]


def form(at: int, cookie: str | None = "u", email: str | None = None, **more: Any) -> Event:
    return form_submission(at, at=at, utk=cookie, email=email, **more)


def click(at: int, cookie: str | None = "u", to: str = A, **more: Any) -> Event:
    return email_click(at, at=at, utk=cookie, recipient_email=to, **more)


def call(at: int, cookie: str = "u", email: str | None = None, **more: Any) -> Event:
    return identify(at, at=at, utk=cookie, email=email, **more)


def imported(at: int, email: str = A, **more: Any) -> Event:
    return contact_import(at, at=at, email=email, **more)


# The examples of the spec


def test_example_1_a_form_claims_the_history_of_its_cookie() -> None:
    events = [page_view(at=1, utk="u"), page_view(at=2, utk="u"), form(3, email=A), page_view(at=4, utk="u")]
    assert owners(folded(*events), events) == [person(A)] * 4


def test_example_2_two_cookies_one_contact() -> None:
    identities = folded(form(1, "u1", A), form(2, "u2", A))
    assert list(identities.contacts) == [person(A)]
    assert links(identities, "u1") == links(identities, "u2") == [(person(A), "bound", None, None)]


def test_example_3_an_unknown_address_replaces_the_cookie_owners() -> None:
    events = [form(1, email=A), page_view(at=2, utk="u"), form(3, email=B)]
    identities = folded(*events)
    [contact] = identities.contacts.values()
    assert (contact.email, contact.former_emails) == (B, (A,))
    assert rules(identities, events[2]) == ["form.replaces_email"]


def test_example_3_create_new_contact_makes_two() -> None:
    events = [form(1, email=A), page_view(at=2, utk="u"), form(3, email=B, create_new_contact=True)]
    identities = folded(*events)
    assert owners(identities, events) == [person(A), person(A), person(B)]


def test_example_4_a_forwarded_mail_is_a_guess_until_a_form() -> None:
    before = [imported(0), click(1, "u1"), click(2, "u2"), page_view(at=3, utk="u2")]
    guess = owner_of(before[3], folded(*before))
    assert (guess.contact_id, guess.temporary_contact_id, guess.rule, guess.evidence) == (None, person(A), "cookie.temporary", event_id(2))
    after = [*before, form(4, "u2", C)]
    identities = folded(*after)
    assert links(identities, "u2") == [(person(C), "bound", None, None)]
    assert owners(identities, after[3:]) == [person(C), person(C)]


@pytest.mark.parametrize(
    ("rebind", "at_15", "at_25", "expected_links"),
    [
        ("from_now", A, B, [(A, None, 20), (B, 20, None)]),
        ("keep_owner", A, A, [(A, None, None)]),
        ("move_all", B, B, [(B, None, None)]),
    ],
)
def test_example_5_another_contacts_form_on_a_bound_cookie(rebind: str, at_15: str, at_25: str, expected_links: list[Any]) -> None:
    events = [imported(1, A), imported(2, B), form(10, email=A), page_view(at=15, utk="u"), form(20, email=B), page_view(at=25, utk="u")]
    identities = folded(*events, rebind=rebind)
    assert owners(identities, [events[3], events[5]]) == [person(at_15), person(at_25)]
    assert links(identities, "u") == [(person(who), "bound", start, end) for who, start, end in expected_links]
    assert owners(identities, [events[2], events[4]]) == [person(A), person(B)], "a form is its contact's, whatever the cookie"


def test_example_6_a_scanner_binds_nothing() -> None:
    events = [imported(0), click(1, "scanner", bot=True), click(2, "u1"), click(3, "u2")]
    identities = folded(*events)
    assert links(identities, "scanner") == []
    assert links(identities, "u1") == [(person(A), "bound", None, None)]
    assert rules(identities, *events[1:]) == ["click.bot", "click.binds", "click.temporary"]


# Every rule: what it is called, whom the evidence resolves to, and whose the cookie is afterwards

RULES = [
    ("form.known_email", [imported(1)], form(9, email=A), A, A),
    ("form.replaces_email", [form(1, email=A)], form(9, email=B), A, A),
    ("form.new_contact", [], form(9, email=A), A, A),
    ("form.new_contact", [form(1, email=A)], form(9, email=B, create_new_contact=True), B, A),
    ("form.new_contact", [], form(9, email=A, use_cookie=False), A, None),
    ("form.new_contact", [], form(9, cookie=None, email=A), A, None),
    ("form.cookie_owner", [form(1, email=A)], form(9), A, A),
    ("form.new_without_email", [], form(9), f"utk:{utk('u')}", f"utk:{utk('u')}"),
    ("form.new_without_email", [], form(9, cookie=None, create_new_contact=True), f"event:{event_id(9)}", None),
    ("form.new_without_email", [form(1, email=A)], form(9, create_new_contact=True), f"utk:{utk('u')}", A),
    ("form.nobody", [], form(9, cookie=None), None, None),
    ("form.nobody", [form(1, email=A)], form(9, use_cookie=False), None, A),
    ("click.bot", [imported(1)], click(9, bot=True), A, None),
    ("click.bot", [form(1, email=B)], click(9, bot=True), None, B),
    ("click.unknown_recipient", [form(1, email=B)], click(9), None, B),
    ("click.no_cookie", [imported(1)], click(9, cookie=None), A, None),
    ("click.same_contact", [form(1, email=A)], click(9), A, A),
    ("click.other_contact", [imported(1), form(2, email=B)], click(9), A, B),
    ("click.binds", [imported(1)], click(9), A, A),
    ("click.temporary", [imported(1), click(2, "elsewhere")], click(9), A, None),
    ("identify.known_email", [imported(1)], call(9, email=A), A, A),
    ("identify.new_contact", [], call(9, email=A), A, A),
    ("identify.completes_contact", [form(1)], call(9, email=A), f"utk:{utk('u')}", f"utk:{utk('u')}"),
    ("identify.new_email", [form(1, email=A)], call(9, email=B), B, B),
    ("identify.known_id", [imported(1, external_id="7")], call(9, external_id="7"), A, A),
    ("identify.id_for_owner", [form(1, email=A)], call(9, external_id="7"), A, A),
    ("identify.unknown_id", [], call(9, external_id="7"), None, None),
    ("import.known_email", [imported(1)], imported(9), A, None),
    ("import.new_contact", [], imported(9), A, None),
]


@pytest.mark.parametrize(
    ("rule", "history", "event", "resolves_to", "cookie_is"), RULES, ids=[f"{n}-{row[0]}" for n, row in enumerate(RULES)]
)
def test_rule(rule: str, history: list[Event], event: Event, resolves_to: str | None, cookie_is: str | None) -> None:
    identities = folded(*history, event)
    outcome = identities.outcomes[event.event_id]
    assert (outcome.rule, outcome.contact_id) == (rule, resolves_to and person(resolves_to))
    bound = [link for link in identities.links.get(utk("u"), ()) if link.status == "bound"]
    assert (bound[-1].contact_id if bound else None) == (cookie_is and person(cookie_is))


# What evidence without a contact falls back on


@pytest.mark.parametrize("event", [click(9), click(9, bot=True), call(9, external_id="7")], ids=["unknown recipient", "bot", "unknown id"])
def test_evidence_of_nobody_belongs_to_the_final_owner_of_its_cookie(event: Event) -> None:
    """It keeps its rule, and names the evidence of the link through which it has its owner."""
    identities = folded(event, form(20, email=B))
    owner = owner_of(event, identities)
    assert (owner.contact_id, owner.evidence) == (person(B), event_id(20))
    assert owner.rule == identities.outcomes[event.event_id].rule


def test_a_form_of_nobody_stays_nobodys() -> None:
    form_without_cookie = form(9, use_cookie=False)
    owner = owner_of(form_without_cookie, folded(form_without_cookie, form(20, email=B)))
    assert owner == (None, None, "form.nobody", None)


# Addresses


def test_released_address_makes_a_new_contact_when_it_comes_again() -> None:
    identities = folded(form(1, email=A), form(2, email=B), form(3, "other", A))
    assert set(identities.contacts) == {person(A), person(A, 1)}


def test_policy_keep_lets_the_old_address_identify() -> None:
    identities = folded(form(1, email=A), form(2, email=B), form(3, "other", A), replaced_email="keep")
    assert set(identities.contacts) == {person(A)}
    assert rules(identities, form(3, "other", A)) == ["form.known_email"]


def test_a_click_finds_the_last_holder_of_a_released_address() -> None:
    """The mail was sent to that person, whatever the address is now."""
    identities = folded(form(1, email=A), form(2, email=B), click(3, "phone", A))
    assert links(identities, "phone") == [(person(A), "bound", None, None)]
    assert identities.contacts[person(A)].email == B  # type: ignore[index]


def test_former_emails_are_in_order_of_replacement_each_once_without_the_current() -> None:
    identities = folded(*(form(n, email=email) for n, email in enumerate([A, B, A, C])))
    [contact] = identities.contacts.values()
    assert contact.former_emails == (A, B)
    back = folded(*(form(n, email=email) for n, email in enumerate([A, B, A])))
    assert [c.former_emails for c in back.contacts.values()] == [(B,)]


def test_a_nameless_contact_takes_an_address_without_a_former_one() -> None:
    identities = folded(form(1), form(2, email=A))
    [contact] = identities.contacts.values()
    assert (contact.contact_id, contact.email, contact.former_emails) == (person(f"utk:{utk('u')}"), A, ())


# External ids


def test_the_first_id_wins() -> None:
    identities = folded(imported(1, A, external_id="7"), imported(2, A, external_id="8"), imported(3, B, external_id="7"))
    assert [(c.email, c.external_id) for c in identities.contacts.values()] == [(A, "7"), (B, None)]


def test_a_known_address_outranks_a_known_id() -> None:
    identities = folded(imported(1, A, external_id="7"), imported(2, B), call(3, email=B, external_id="7"))
    assert links(identities, "u") == [(person(B), "bound", None, None)]


# Policies


@pytest.mark.parametrize(("switch", "owner"), [("if_unbound", A), ("never", A), ("always", B)])
def test_policy_create_new_binds_cookie_on_a_bound_cookie(switch: str, owner: str) -> None:
    identities = folded(form(1, email=A), form(2, email=B, create_new_contact=True), create_new_binds_cookie=switch)
    assert identities.links[utk("u")][-1].contact_id == person(owner)


@pytest.mark.parametrize(("switch", "bound"), [("if_unbound", True), ("never", False), ("always", True)])
def test_policy_create_new_binds_cookie_on_a_free_cookie(switch: str, bound: bool) -> None:
    identities = folded(form(1, email=A, create_new_contact=True), create_new_binds_cookie=switch)
    assert bool(links(identities, "u")) is bound


@pytest.mark.parametrize(
    ("scope", "statuses"),
    [
        ("contact", ["bound", "temporary", "temporary"]),
        ("contact_and_send", ["bound", "temporary", "bound"]),
        ("cookie", ["bound", "bound", "bound"]),
    ],
)
def test_policy_email_binding_scope(scope: str, statuses: list[str]) -> None:
    events = [imported(0), click(1, "u1", send_id="s1"), click(2, "u2", send_id="s1"), click(3, "u3", send_id="s2")]
    identities = folded(*events, email_binding_scope=scope)
    assert [links(identities, cookie)[0][1] for cookie in ("u1", "u2", "u3")] == statuses


def test_policy_identify_new_email_overwrite() -> None:
    identities = folded(form(1, email=A), call(2, email=B), identify_new_email="overwrite")
    [contact] = identities.contacts.values()
    assert (contact.email, contact.former_emails) == (B, (A,))


# Links


def test_a_click_on_ones_own_mail_does_not_use_up_the_binding() -> None:
    identities = folded(form(1, "u1", A), click(2, "u1"), click(3, "u2"))
    assert rules(identities, click(2, "u1"), click(3, "u2")) == ["click.same_contact", "click.binds"]


def test_temporary_links_follow_one_another() -> None:
    """A later guess ends the open one of another contact; one of the same contact changes nothing."""
    used = [imported(0, A), imported(0, B), click(1, "x", A), click(2, "y", B)]
    used[1] = contact_import(100, at=0, email=B)
    identities = folded(*used, click(10, to=A), click(11, to=A), click(12, to=B))
    assert links(identities, "u") == [(person(A), "temporary", 10, 12), (person(B), "temporary", 12, None)]


def test_links_of_no_length_vanish() -> None:
    """Bound from the beginning, then twice more at one moment: the one in the middle never owned anything."""
    forms = [form_submission(n, at=at, utk="u", email=email) for n, (at, email) in enumerate([(10, A), (20, B), (20, C)], start=10)]
    people = [contact_import(n, at=1, email=email) for n, email in enumerate((A, B, C))]
    assert links(folded(*people, *forms), "u") == [(person(A), "bound", None, 20), (person(C), "bound", 20, None)]


def test_links_name_their_rule_and_their_evidence() -> None:
    [link] = folded(form(3, email=A)).links[utk("u")]
    assert link == Link(person(A), "bound", None, None, "form.new_contact", event_id(3))  # type: ignore[arg-type]


def test_evidence_is_folded_in_order_of_time_then_event_id() -> None:
    late = [form(2, email=B), form(1, email=A)]
    [contact] = folded(*late).contacts.values()
    assert (contact.email, contact.former_emails, contact.created_by) == (B, (A,), event_id(1))


def test_a_submission_that_must_not_use_the_cookie_shows_none() -> None:
    assert evidence_of(form(1, use_cookie=False)) == Evidence(1, event_id(1), "form_submission", None, None)  # type: ignore[arg-type]
