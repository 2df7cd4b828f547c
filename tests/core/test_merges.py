"""Merging contacts: by a merge, and of nameless contacts by policy `anonymous_contact` (spec: identity.md, "Merge")."""

import pytest

from pipeline.core.contacts import Contact
from pipeline.core.events import Event
from pipeline.core.identity import Fold
from tests.builders import contact_merge, page_view, retraction
from tests.core.test_identity import A, B, C, call, click, folded, form, imported, links, owners, person, rules


def merge(at: int, primary: str = A, secondary: str = B) -> Event:
    return contact_merge(at, at=at, primary=primary, secondary=secondary)


def contact(identities: Fold, seed: str) -> Contact:
    return identities.contacts[person(seed)]  # type: ignore[index]


TWO = (form(1, "u1", A), form(2, "u2", B))


def test_everything_that_the_secondary_owns_is_the_primarys() -> None:
    """Example 8: cookies, forms and views, from before and after the merge."""
    events = [*TWO, merge(3), page_view(4, at=0, utk="u2"), page_view(5, at=5, utk="u2")]
    identities = folded(*events)
    assert owners(identities, events) == [person(A)] * 5
    assert links(identities, "u2") == [(person(A), "bound", None, None)]
    assert rules(identities, *events[:3]) == ["form.new_contact", "form.new_contact", "merge.merged"]
    assert identities.links[events[1].utk][0].evidence == events[1].event_id  # type: ignore[index]


def test_the_primary_keeps_its_address_and_the_others_stays_a_way_to_it() -> None:
    identities = folded(*TWO, merge(3), form(4, "u3", B))
    kept, gone = contact(identities, A), contact(identities, B)
    assert (kept.email, kept.former_emails, kept.merged_into) == (A, (B,), None)
    assert (gone.email, gone.former_emails, gone.merged_into) == (B, (), person(A))
    assert links(identities, "u3") == [(person(A), "bound", None, None)]


def test_addresses_that_identify_the_secondary_identify_the_primary() -> None:
    """A former one, too, where it still identifies (`keep`); one that was released stays released."""
    history = (form(1, "u1", A), form(2, "u2", C), form(3, "u2", B), merge(4), form(5, "u3", C))
    assert links(folded(*history, replaced_email="keep"), "u3") == [(person(A), "bound", None, None)]
    released = folded(*history)
    assert links(released, "u3") == [(person(C, 1), "bound", None, None)]
    assert contact(released, A).former_emails == (C, B)


def test_mail_to_a_former_address_of_the_secondary_is_the_primarys() -> None:
    """The last holder of an address is merged like everything else."""
    events = [form(1, "u1", A), form(2, "u2", C), form(3, "u2", B), merge(4), click(5, "u4", C)]
    assert owners(folded(*events), events)[-1] == person(A)


def test_an_external_id_goes_to_a_primary_without_one() -> None:
    identities = folded(imported(1, A), imported(2, B, external_id="7"), merge(3), call(4, "u", external_id="7"))
    assert contact(identities, A).external_id == "7"
    assert links(identities, "u") == [(person(A), "bound", None, None)]


def test_an_external_id_identifies_a_primary_that_has_another() -> None:
    """Also after a second merge."""
    events = (imported(1, A, external_id="1"), imported(2, B, external_id="2"), imported(3, C), merge(4, B, A), merge(5, C, B))
    for id_ in ("1", "2"):
        identities = folded(*events, call(6, "u", external_id=id_))
        assert contact(identities, C).external_id == "2"
        assert links(identities, "u") == [(person(C), "bound", None, None)]


def test_email_bindings_that_were_used_count_as_the_primarys() -> None:
    """So the next click is a guess."""
    identities = folded(imported(1, A), imported(2, B), click(3, "u1", B), merge(4), click(5, "u2", A))
    assert links(identities, "u1") == [(person(A), "bound", None, None)]
    assert links(identities, "u2") == [(person(A), "temporary", 5, None)]


def test_guesses_are_the_primarys_too() -> None:
    identities = folded(imported(1, A), imported(2, B), click(3, "u1", B), click(4, "u2", B), merge(5))
    assert links(identities, "u2") == [(person(A), "temporary", 4, None)]


def test_chains_of_merges_lead_to_the_last() -> None:
    """In both orders: the secondary's own secondary comes along, or the primary is merged later."""
    three = (form(1, "u1", A), form(2, "u2", B), form(3, "u3", C))
    for merges in ((merge(4, A, B), merge(5, B, C)), (merge(4, B, C), merge(5, A, B))):
        identities = folded(*three, *merges)
        assert {person: found.merged_into for person, found in identities.contacts.items()} == {
            person(A): None,
            person(B): person(A),
            person(C): person(A),
        }
        assert [links(identities, cookie)[0][0] for cookie in ("u1", "u2", "u3")] == [person(A)] * 3


@pytest.mark.parametrize(
    "events",
    [(merge(3),), (form(1, "u1", A), merge(3)), (*TWO, merge(3, A, A)), (*TWO, merge(3), merge(4)), (*TWO, merge(3), merge(4, B, A))],
    ids=["nobody", "no secondary", "one address", "merged already", "merged already, the other way round"],
)
def test_without_two_contacts_a_merge_does_nothing(events: tuple[Event, ...]) -> None:
    identities, before = folded(*events), folded(*events[:-1])
    assert rules(identities, events[-1]) == ["merge.nothing"]
    assert identities.outcomes[events[-1].event_id].contact_id is None
    assert (identities.contacts, identities.links) == (before.contacts, before.links)


def test_a_merge_is_undone_by_its_retraction() -> None:
    """Nothing is left of it: what came later finds two contacts (`resolve` leaves retracted evidence out; see test_retractions)."""
    later = form(4, "u3", B)
    assert retraction(5, at=5, retracts=3).retracts == merge(3).event_id
    assert links(folded(*TWO, later), "u3") == [(person(B), "bound", None, None)]


NAMELESS = person(f"utk:{b'u'.hex().rjust(32, '0')}")


def test_a_nameless_contact_is_absorbed_by_whom_its_cookie_turns_out_to_be() -> None:
    """Example 7."""
    events = [imported(1, B), form(2), page_view(3, at=3, utk="u"), form(4, email=B)]
    identities = folded(*events)
    assert owners(identities, events) == [person(B)] * 4
    assert identities.contacts[NAMELESS].merged_into == person(B)  # type: ignore[index]
    assert [(link.rule.value, link.evidence) for link in identities.links[events[1].utk]] == [  # type: ignore[index]
        ("form.new_without_email", events[1].event_id)
    ]
    kept = folded(*events, anonymous_contact="keep")
    assert owners(kept, events) == [person(B), NAMELESS, NAMELESS, person(B)]
    assert links(kept, "u") == [(NAMELESS, "bound", None, 4), (person(B), "bound", 4, None)]


@pytest.mark.parametrize("rebind", ["from_now", "keep_owner", "move_all"])
def test_a_nameless_contact_has_no_claim_whatever_becomes_of_others(rebind: str) -> None:
    identities = folded(imported(1, B), form(2), call(3, email=B), rebind=rebind)
    assert links(identities, "u") == [(person(B), "bound", None, None)]


def test_only_who_is_bound_anew_absorbs() -> None:
    """Not a contact that leaves the cookie alone (a kiosk), and no contact that has an id is nameless."""
    kiosk = folded(form(1), form(2, email=B, create_new_contact=True))
    assert kiosk.contacts[NAMELESS].merged_into is None  # type: ignore[index]
    named = folded(imported(1, B), form(2), call(3, external_id="7"), form(4, email=B))
    assert named.contacts[NAMELESS].merged_into is None  # type: ignore[index]
