"""Forms that post to the collector, as JSON or as HTML sends them (spec: edge.md, "Collector")."""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from pipeline.core import normalise
from pipeline.core.events import Event
from pipeline.core.ids import uuid5
from pipeline.core.outcomes import Refused
from pipeline.edge.core import addresses
from pipeline.edge.core.clock import FUTURE, PAST
from pipeline.edge.core.hits import Request, allowed, as_event, sender
from pipeline.edge.core.portal import Portal

MAX_VALUES = 1_000
MAX_CHARACTERS = 65_536
FORM_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
HIDDEN = ("_hsutk", "_hsevent", "_hspage", "_hsconsent")
"""Inputs that the script adds to a form that posts to the collector: utk, event id, page, and the answer about analytics, if any."""
_ANSWERS = {"1": {"analytics": True}, "0": {"analytics": False}}


class ErrorType(StrEnum):
    INVALID_EMAIL = "INVALID_EMAIL"
    INVALID_HUTK = "INVALID_HUTK"
    INVALID_PAGE_URI = "INVALID_PAGE_URI"
    INVALID_IP_ADDRESS = "INVALID_IP_ADDRESS"
    REQUIRED_FIELD = "REQUIRED_FIELD"
    MAX_VALUES = "MAX_NUMBER_OF_SUBMITTED_VALUES_EXCEEDED"
    TOO_LARGE = "INPUT_TOO_LARGE"
    MISSING_PROCESSING_CONSENT = "MISSING_PROCESSING_CONSENT"
    INVALID_SUBMISSION = "INVALID_SUBMISSION"
    """It is no submission at all: fields that are no list, a time that is none or older than a month."""


class FormError(NamedTuple):
    """What is wrong; the message names the field, never its value."""

    type: ErrorType
    message: str


class Submission(NamedTuple):
    """A form as it was sent, by whatever way; nothing of it is checked yet."""

    fields: object
    context: Mapping[str, Any]
    submitted_at: object = None
    legal: object = None
    create_new_contact: object = None
    event_id: str | None = None
    is_from_server: bool = False
    """Sent with the portal's server key, so that what it says about the visitor's address is believed."""


def of_json(body: object) -> Submission | FormError:
    """The submission that a JSON body is."""
    if not isinstance(body, dict):
        return FormError(ErrorType.INVALID_SUBMISSION, "the body: expected a JSON object")
    context = body.get("context") or {}
    if not isinstance(context, dict):
        return FormError(ErrorType.INVALID_SUBMISSION, "context: expected an object")
    return Submission(
        body.get("fields"), context, body.get("submittedAt"), body.get("legalConsentOptions"), body.get("createNewContactForNewEmail")
    )


def of_html(pairs: Sequence[tuple[str, str]], referrer: str | None) -> Submission:
    """The submission that the inputs of an HTML form are; the script's own are taken out."""
    own = {name: value for name, value in pairs if name in HIDDEN}
    fields = [{"name": name, "value": value} for name, value in pairs if name not in HIDDEN]
    context = {
        "hutk": own.get("_hsutk"),
        "pageUri": own.get("_hspage") or referrer,
        "consent": _ANSWERS.get(own.get("_hsconsent", "")),
    }
    return Submission(fields, context, event_id=normalise.event_id(own.get("_hsevent")))


def keyed(portal: Portal, form_id: str, key: str) -> str:
    """The event id that an Idempotency-Key stands for."""
    return uuid5(f"{portal.id}|{form_id}|{key}")


def event_of(given: Submission, portal: Portal, form_id: str, request: Request, event_id: str) -> Event | list[FormError]:
    """The event of a submission, or all that is wrong with it. `event_id` is for one that has none of its own."""
    fields, errors = _fields(given.fields)
    errors += _wrong_fields(fields, portal, form_id) + _wrong_context(given, portal, form_id) + _wrong_time(given.submitted_at, request)
    if errors:
        return errors
    context = given.context
    if given.is_from_server:
        request = request._replace(ip=context.get("ipAddress"), user_agent=None)
    event = as_event(
        {
            "type": "form_submission",
            "event_id": given.event_id or event_id,
            "occurred_at": request.received_at if given.submitted_at is None else given.submitted_at,
            "form_id": form_id,
            "email": next((value for name, value in fields if name == "email" and value), None),
            "fields": dict(_joined(fields)),
            "create_new_contact": given.create_new_contact is True,
        }
        | sender(context.get("hutk") or None, context.get("pageUri"), portal, request, allowed(context.get("consent"), portal, request)),
        portal,
        request,
    )
    return [FormError(ErrorType.INVALID_SUBMISSION, event.detail)] if isinstance(event, Refused) else event


def _fields(given: object) -> tuple[list[tuple[str, str]], list[FormError]]:
    """Names and values, as far as they are such."""
    if not isinstance(given, list):
        return [], [FormError(ErrorType.INVALID_SUBMISSION, "fields: expected a list of {name, value}")]
    if len(given) > MAX_VALUES:
        return [], [FormError(ErrorType.MAX_VALUES, f"fields: expected at most {MAX_VALUES} values")]
    pairs, errors = [], []
    for position, field in enumerate(given):
        name, value = (field.get("name"), field.get("value")) if isinstance(field, dict) else (None, None)
        if not isinstance(name, str) or not name or not isinstance(value, str | int | float | bool | None):
            errors.append(FormError(ErrorType.INVALID_SUBMISSION, f"fields[{position}]: expected a name, and a text as its value"))
        elif isinstance(value, str) and len(value) > MAX_CHARACTERS:
            errors.append(FormError(ErrorType.TOO_LARGE, f"fields[{position}]: expected at most {MAX_CHARACTERS} characters"))
        else:
            pairs.append((name, "" if value is None else value if isinstance(value, str) else str(value)))
    return pairs, errors


def _joined(fields: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """Values by name; those of one name (check boxes) with semicolons between them."""
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    return {name: ";".join(several) for name, several in values.items()}


def _wrong_fields(fields: Sequence[tuple[str, str]], portal: Portal, form_id: str) -> list[FormError]:
    filled = {name for name, value in fields if value}
    errors = [
        FormError(ErrorType.REQUIRED_FIELD, f"{name}: this form needs it") for name in portal.form(form_id).required if name not in filled
    ]
    if any(name == "email" and value and normalise.email(value) is None for name, value in fields):
        errors.append(FormError(ErrorType.INVALID_EMAIL, "email: expected an email address"))
    return errors


def _wrong_context(given: Submission, portal: Portal, form_id: str) -> list[FormError]:
    context, errors = given.context, []
    if context.get("hutk") and normalise.utk(context["hutk"]) is None:
        errors.append(FormError(ErrorType.INVALID_HUTK, "context.hutk: expected 32 hex digits"))
    if context.get("pageUri") and not portal.has(context["pageUri"]):
        errors.append(FormError(ErrorType.INVALID_PAGE_URI, "context.pageUri: expected an address on one of the portal's domains"))
    if context.get("ipAddress") not in (None, "") and addresses.address(context["ipAddress"]) is None:
        errors.append(FormError(ErrorType.INVALID_IP_ADDRESS, "context.ipAddress: expected an IPv4 or IPv6 address"))
    if portal.form(form_id).processing_consent and not _consents_to_processing(given.legal):
        message = "legalConsentOptions.consent.consentToProcess: this form needs it"
        errors.append(FormError(ErrorType.MISSING_PROCESSING_CONSENT, message))
    return errors


def _consents_to_processing(legal: object) -> bool:
    told = legal.get("consent") if isinstance(legal, dict) else None
    return isinstance(told, dict) and told.get("consentToProcess") is True


def _wrong_time(submitted_at: object, request: Request) -> list[FormError]:
    if submitted_at is None:
        return []
    moment = normalise.timestamp(submitted_at)
    if moment is None or not request.received_at - PAST <= moment <= request.received_at + FUTURE:
        return [FormError(ErrorType.INVALID_SUBMISSION, "submittedAt: expected milliseconds since 1970, at most a month ago")]
    return []
