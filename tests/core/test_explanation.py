"""Why something is whose it is: the chain of evidence, and what each step did."""

from collections.abc import Iterable, Mapping

import msgspec
from hypothesis import given

from pipeline.core.contacts import Contact
from pipeline.core.events import Event, PortalId, Utk
from pipeline.core.evidence import Outcome, Rule, evidence_of
from pipeline.core.explanation import Step, Story, Withdrawal, story
from pipeline.core.identity import fold
from pipeline.core.ids import ContactId
from pipeline.core.policy import IdentityPolicy, Rebind
from tests.builders import START, email_click, event_id, form_submission, identify, page_view, utk
from tests.core.test_convergence import identity_policies, merged, what_counts
from tests.strategies import undone_events

PORTAL = PortalId(1)
VIEW = page_view(1, at=START)
FORM = form_submission(2, at=START + 1, email="a@x.io")
CLICK = email_click(3, at=START + 2, utk="b", recipient_email="a@x.io")
FORWARDED = email_click(4, at=START + 3, utk="c", recipient_email="a@x.io")
RENAMED = form_submission(5, at=START + 4, email="b@x.io")
OTHERS = form_submission(6, at=START + 5, utk="d", email="z@x.io")
NAMED = identify(7, at=START + 6, email="b@x.io", external_id="crm-7")
ALL: tuple[Event, ...] = (VIEW, FORM, CLICK, FORWARDED, RENAMED, OTHERS, NAMED)
DEFAULTS = IdentityPolicy()


def told(*events: Event, policy: IdentityPolicy = DEFAULTS) -> Story:
    return story(PORTAL, events, policy)


def ids(steps: Iterable[Step | Withdrawal]) -> list[str]:
    return [step.key[1] for step in steps]


def of_cookie(whole: Story, name: str) -> list[str]:
    return ids(whole.of_cookie(Utk(utk(name))))


def test_an_anonymous_view_is_explained_by_what_bound_its_cookie_and_named_its_owner() -> None:
    owner, steps = told(*ALL).of_event(VIEW)
    assert (owner.rule, owner.evidence) == ("cookie.bound", FORM.event_id)
    assert ids(steps) == [event_id(2), event_id(5), event_id(7)]
    form = steps[0]
    assert isinstance(form, Step)
    assert form.outcome.rule is Rule.FORM_NEW_CONTACT
    assert [(before, after.email) for before, after in form.contacts.values()] == [(None, "a@x.io")]
    assert [(before, len(after)) for before, after in form.links.values()] == [((), 1)]
    renamed = steps[1]
    assert isinstance(renamed, Step)
    assert [(before.email, after.email) for before, after in renamed.contacts.values() if before] == [("a@x.io", "b@x.io")]


def test_a_cookie_is_explained_by_its_own_evidence_and_its_owners() -> None:
    whole = told(*ALL)
    assert of_cookie(whole, "c") == [event_id(number) for number in (2, 4, 5, 7)]
    assert of_cookie(whole, "d") == [event_id(6)]
    assert of_cookie(whole, "nobody") == []


def test_a_contact_is_explained_by_all_that_resolved_to_it() -> None:
    whole = told(*ALL)
    owner, _ = whole.of_event(VIEW)
    assert owner.contact_id is not None
    assert ids(whole.of_contact(owner.contact_id)) == [event_id(number) for number in (2, 3, 4, 5, 7)]


def test_evidence_that_took_a_cookie_away_is_in_the_chain_of_whom_it_left() -> None:
    moved = form_submission(9, at=START + 9, utk="d", email="a@x.io")
    whole = told(FORM, OTHERS, moved, policy=IdentityPolicy(rebind=Rebind.MOVE_ALL))
    (left,) = [contact for contact in whole.fold.contacts.values() if contact.email == "z@x.io"]
    assert ids(whole.of_contact(left.contact_id)) == [event_id(6), event_id(9)]


@given(events=undone_events(max_size=20), policy=identity_policies)
def test_the_steps_lead_to_what_the_fold_says(events: list[Event], policy: IdentityPolicy) -> None:
    """Every change is some step's, and the last change of each contact and cookie is how it is now; what is retracted is no step."""
    whole = story(PORTAL, merged(events), policy)
    expected = fold(PORTAL, (found for event in what_counts(events) if (found := evidence_of(event))), policy)
    contacts = {id_: after for step in whole.steps for id_, (_, after) in step.contacts.items()}
    links = {cookie: after for step in whole.steps for cookie, (_, after) in step.links.items()}
    assert (contacts, links) == (expected.contacts, expected.links)
    assert {step.evidence.event_id: now(step.outcome, contacts) for step in whole.steps} == expected.outcomes


def now(outcome: Outcome, contacts: Mapping[ContactId, Contact]) -> Outcome:
    """The outcome as it is after what was merged later."""
    contact = outcome.contact_id and contacts[outcome.contact_id].merged_into
    return msgspec.structs.replace(outcome, contact_id=contact) if contact else outcome
