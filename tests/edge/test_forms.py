"""What becomes of a form: an event, or an error that names the field."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.events import FormSubmission, PortalId
from pipeline.edge.core import forms
from pipeline.edge.core.consent import Mode
from pipeline.edge.core.forms import ErrorType
from pipeline.edge.core.hits import Request
from pipeline.edge.core.portal import Form, Portal
from tests.builders import DAY, START, event_id, utk
from tests.edge.deciding import ASKING, PERSON, SITE, json_values


def submitted(given: object, portal: Portal = SITE, request: Request = PERSON) -> Any:
    submission = forms.of_json(given)
    assert isinstance(submission, forms.Submission)
    return forms.event_of(submission, portal, "contact", request, event_id(9))


def test_a_form_posted_as_json() -> None:
    event = submitted(
        {
            "submittedAt": START - 1,
            "fields": [
                {"name": "email", "value": " Ann@X.io"},
                {"name": "size", "value": 4},
                {"name": "c", "value": "1"},
                {"name": "c", "value": "2"},
            ],
            "context": {"hutk": utk("u"), "pageUri": "https://www.site.example/a?token=1"},
            "createNewContactForNewEmail": True,
        }
    )
    assert isinstance(event, FormSubmission)
    assert (event.email, event.utk, event.occurred_at, event.create_new_contact) == ("ann@x.io", utk("u"), START - 1, True)
    assert event.fields == (("email", " Ann@X.io"), ("size", "4"), ("c", "1;2"))
    assert event.page_url == "https://www.site.example/a"


EMAIL = {"name": "email", "value": "ann@x.io"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"fields": [{"name": "email", "value": "ann"}]}, ErrorType.INVALID_EMAIL),
        ({"fields": [EMAIL], "context": {"hutk": "u"}}, ErrorType.INVALID_HUTK),
        ({"fields": [EMAIL], "context": {"pageUri": "https://evil.example/"}}, ErrorType.INVALID_PAGE_URI),
        ({"fields": [EMAIL], "context": {"ipAddress": "300.1.1.1"}}, ErrorType.INVALID_IP_ADDRESS),
        ({"fields": [EMAIL], "context": {"ipAddress": []}}, ErrorType.INVALID_IP_ADDRESS),
        ({"fields": [{"name": "other", "value": "1"}]}, ErrorType.REQUIRED_FIELD),
        ({"fields": [EMAIL] * 1001}, ErrorType.MAX_VALUES),
        ({"fields": [EMAIL, {"name": "t", "value": "x" * 65_537}]}, ErrorType.TOO_LARGE),
        ({"fields": [EMAIL]}, ErrorType.MISSING_PROCESSING_CONSENT),
        ({"fields": "email"}, ErrorType.INVALID_SUBMISSION),
        ({"fields": [EMAIL], "submittedAt": START - 32 * DAY}, ErrorType.INVALID_SUBMISSION),
        ({"fields": [EMAIL], "submittedAt": "soon"}, ErrorType.INVALID_SUBMISSION),
        ({"fields": [{"name": "e", "value": []}]}, ErrorType.INVALID_SUBMISSION),
    ],
)
def test_wrong_forms(body: dict[str, Any], expected: ErrorType) -> None:
    """Everything wrong with a form is named by the source's types, without the values."""
    portal = Portal(PortalId(7), ("site.example",), mode=Mode.OFF, forms={"contact": Form(required=("email",), processing_consent=True)})
    legal = {} if expected is ErrorType.MISSING_PROCESSING_CONSENT else {"legalConsentOptions": {"consent": {"consentToProcess": True}}}
    errors = submitted(body | legal, portal)
    assert expected in [error.type for error in errors]
    assert "300.1.1.1" not in str(errors)
    assert "evil" not in str(errors)


def test_a_forms_address_is_the_servers_to_say() -> None:
    """`context.ipAddress` is believed only with the portal's server key."""
    body = {"fields": [EMAIL], "context": {"ipAddress": "198.51.100.9"}}
    assert submitted(body).ip == "203.0.113.0"
    submission = forms.of_json(body)
    assert isinstance(submission, forms.Submission)
    event = forms.event_of(submission._replace(is_from_server=True), SITE, "contact", PERSON, event_id(9))
    assert isinstance(event, FormSubmission)
    assert (event.ip, event.user_agent) == ("198.51.100.0", None)


def test_a_form_of_html() -> None:
    """The script's own inputs are no fields; without its consent an opt-in portal takes no cookie."""
    inputs = [("email", "ann@x.io"), ("_hsutk", utk("u")), ("_hsevent", event_id(5)), ("_hspage", "https://www.site.example/")]
    event = forms.event_of(forms.of_html(inputs, None), ASKING, "contact", PERSON, event_id(9))
    assert isinstance(event, FormSubmission)
    assert (event.event_id, event.utk, event.fields) == (event_id(5), None, (("email", "ann@x.io"),))
    consented = forms.event_of(forms.of_html([*inputs, ("_hsconsent", "1")], None), ASKING, "contact", PERSON, event_id(9))
    assert isinstance(consented, FormSubmission)
    assert consented.utk == utk("u")
    refused = forms.event_of(forms.of_html([*inputs, ("_hsconsent", "0")], None), SITE, "contact", PERSON, event_id(9))
    assert isinstance(refused, FormSubmission)
    assert (refused.utk, refused.ip, refused.user_agent) == (None, None, None)


def test_one_key_one_event() -> None:
    assert forms.keyed(SITE, "contact", "k") == forms.keyed(SITE, "contact", "k") != forms.keyed(SITE, "other", "k")


@given(
    json_values
    | st.fixed_dictionaries(
        {"fields": json_values | st.lists(st.fixed_dictionaries({"name": json_values, "value": json_values}))},
        optional={"context": json_values, "submittedAt": json_values, "legalConsentOptions": json_values},
    )
)
def test_no_form_breaks_the_collector(body: Any) -> None:
    submission = forms.of_json(body)
    if isinstance(submission, forms.Submission):
        assert isinstance(forms.event_of(submission, SITE, "contact", PERSON, event_id(9)), FormSubmission | list)
