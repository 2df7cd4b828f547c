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
from tests.builders import START, contact_merge, email_click, event_id, form_submission, identify, page_view, utk
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


def test_an_owner_that_was_merged_from_others_is_explained_by_what_made_these() -> None:
    """A cookie that had another's name then, an event on it, and a contact that was merged into one that was merged itself."""
    forms = [form_submission(number, at=START + number, utk=name, email=f"{name}@x.io") for number, name in enumerate("abc", 1)]
    again = form_submission(4, at=START + 4, utk="y", email="b@x.io")
    merges = [
        contact_merge(5, at=START + 5, primary="b@x.io", secondary="a@x.io"),
        contact_merge(6, at=START + 6, primary="c@x.io", secondary="b@x.io"),
    ]
    view = page_view(7, at=START + 7, utk="y")
    whole = told(*forms, again, *merges, view)
    everything = [event_id(number) for number in (1, 2, 3, 4, 5, 6)]
    assert of_cookie(whole, "y") == everything
    assert ids(whole.of_event(view)[1]) == everything
    (middle,) = [contact.contact_id for contact in whole.fold.contacts.values() if contact.email == "b@x.io"]
    assert ids(whole.of_contact(middle)) == [event_id(number) for number in (1, 2, 4, 5, 6)]


def test_an_event_is_explained_by_what_made_the_other_owners_of_its_cookie() -> None:
    """They are shown with it."""
    elsewhere = form_submission(1, at=START, utk="d", email="z@x.io")
    mine, taken = form_submission(2, at=START + 1, email="a@x.io"), form_submission(3, at=START + 3, email="z@x.io")
    view = page_view(4, at=START + 2)
    assert ids(told(elsewhere, mine, view, taken).of_event(view)[1]) == [event_id(number) for number in (1, 2, 3)]


@given(events=undone_events(max_size=20), policy=identity_policies)
def test_every_contact_that_is_shown_has_in_its_chain_what_made_it(events: list[Event], policy: IdentityPolicy) -> None:
    """And what made those that were merged into it."""
    whole = story(PORTAL, counting := merged(events), policy)
    contacts, links = whole.fold.contacts, whole.fold.links

    def made(shown: set[ContactId]) -> set[str]:
        return {contact.created_by for contact in contacts.values() if contact.contact_id in shown or contact.merged_into in shown}

    for cookie, of_cookie in links.items():
        assert made({link.contact_id for link in of_cookie}) <= set(ids(whole.of_cookie(cookie)))
    for id_ in contacts:
        assert made({id_}) <= set(ids(whole.of_contact(id_)))
    for event in counting:
        owner, steps = whole.of_event(event)
        of_its_cookie = links.get(event.utk, ()) if event.utk else ()
        shown = (owner.contact_id, owner.temporary_contact_id, *(link.contact_id for link in of_its_cookie))
        assert made({contact for contact in shown if contact}) <= set(ids(steps))


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
