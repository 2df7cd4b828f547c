"""From what a browser says to an event that the log may have, or the reason why not (spec: edge.md, "Collector" and "Consent").

Every field of an event is either taken from the hit by name, here, or the collector's own; nothing else of a hit is
looked at. What comes out is a JSON line as `publish` would read it, so an accepted hit is an event by the same definition.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest, new
from typing import Any, NamedTuple

import orjson

from pipeline.core import normalise
from pipeline.core.events import Event, Millis, Utk
from pipeline.core.outcomes import Refused
from pipeline.core.parsing import parse_line
from pipeline.edge.core import addresses, cookies, links, urls
from pipeline.edge.core.clock import corrected
from pipeline.edge.core.consent import CATEGORIES, Consent, consent
from pipeline.edge.core.portal import IdentifyMode, Portal

MAX_HITS = 500
CONSENT_EVENT = "consent"


class Request(NamedTuple):
    """What the collector itself knows of the request that brought a hit."""

    received_at: Millis
    ip: str | None = None
    user_agent: str | None = None
    gpc: bool = False
    dnt: bool = False
    bot: str | None = None
    """Why the sender is no person, if it is none."""


class Dropped(StrEnum):
    """Why a hit is not in the log although it may be well-formed. Refusals have the reasons of events.md besides."""

    FOREIGN_URL = "foreign_url"
    NO_CONSENT = "no_consent"
    UNSIGNED = "unsigned"
    EXCLUDED_IP = "excluded_ip"
    INVALID_CLICK = "invalid_click"
    NOT_AN_OBJECT = "not_an_object"
    UNKNOWN_TYPE = "unknown_type"


Fields = dict[str, Any]


def event_of(hit: object, portal: Portal, request: Request, sent_at: object = None) -> Event | str:
    """The event that a hit becomes, or the reason why it becomes none."""
    if not isinstance(hit, dict):
        return Dropped.NOT_AN_OBJECT
    made = _MADE.get(hit.get("type") or "") if isinstance(hit.get("type"), str) else None
    if made is None:
        return Dropped.UNKNOWN_TYPE
    fields = made(hit, portal, request, allowed(hit.get("consent"), portal, request))
    if isinstance(fields, Dropped):
        return fields
    event = as_event(_timed(fields, hit, request, sent_at), portal, request)
    return event.reason.value if isinstance(event, Refused) else event


def as_event(fields: Fields, portal: Portal, request: Request) -> Event | Refused:
    """Fields as the event that they are by events.md, of this portal and received now."""
    line = fields | {"portal_id": portal.id, "received_at": request.received_at}
    try:
        return parse_line(orjson.dumps(line))
    except orjson.JSONEncodeError:  # lone surrogates, integers beyond 64 bits
        return parse_line(b"?")


def allowed(claim: object, portal: Portal, request: Request) -> Consent:
    """What a visitor with these explicit answers allows."""
    return consent(portal.mode, claim, objects=(request.gpc and portal.honour_gpc) or (request.dnt and portal.honour_dnt))


def _timed(fields: Fields, hit: Mapping[str, Any], request: Request, sent_at: object) -> Fields:
    """With the moment of the event, unless the fields have it; one that had to be set is marked where there are properties."""
    if "occurred_at" in fields:
        return fields
    moment, mark = corrected(hit.get("occurred_at"), hit.get("sent_at", sent_at), request.received_at)
    fields["event_id"], fields["occurred_at"] = hit.get("event_id"), moment
    if mark and "properties" in fields:
        fields["properties"] = {**_object(fields["properties"]), "clock": mark}
    return fields


def _page_view(hit: Mapping[str, Any], portal: Portal, request: Request, allowed: Consent) -> Fields | Dropped:
    if not portal.has(hit.get("url")):
        return Dropped.FOREIGN_URL
    if addresses.is_in(request.ip, portal.exclude_ips):
        return Dropped.EXCLUDED_IP
    if not allowed.analytics:
        return _anonymous_view(hit, request)
    own = {"bot": request.bot} if request.bot else {}
    return {
        "type": "page_view",
        "utk": None if request.bot else hit.get("utk"),
        "url": urls.cleaned(hit["url"]),
        "title": hit.get("title"),
        "referrer": _cleaned(hit.get("referrer")),
        "user_agent": request.user_agent,
        "ip": addresses.kept(request.ip, portal.ip),
        "new_browser_session": hit.get("new_browser_session"),
        "hstc": cookies.hstc(hit.get("hstc")),
        "hssc": cookies.hssc(hit.get("hssc")),
        "properties": _properties(hit, allowed) | own,
    }


def _anonymous_view(hit: Mapping[str, Any], request: Request) -> Fields:
    """What is left of a page view after a no: that somebody with such a device saw this page."""
    referrer = hit.get("referrer")
    return {
        "type": "page_view",
        "url": urls.reduced(hit["url"]),
        "referrer": urls.origin(referrer) if isinstance(referrer, str) else None,
        "properties": {"device": device(request.user_agent)} | ({"bot": request.bot} if request.bot else {}),
    }


def _custom_event(hit: Mapping[str, Any], _: Portal, request: Request, allowed: Consent) -> Fields | Dropped:
    name = hit.get("name")
    if not allowed.analytics:
        return {"type": "custom_event", "name": name}
    return {
        "type": "custom_event",
        "name": name,
        "utk": None if request.bot else hit.get("utk"),
        "properties": _properties(hit, allowed),
    }


def _answer(hit: Mapping[str, Any], portal: Portal, request: Request, allowed: Consent) -> Fields | Dropped:
    """An answer to the banner; whose it is only after a yes."""
    answered = hit.get("consent")
    if not isinstance(answered, dict):
        return Dropped.NO_CONSENT
    answers = {name: answered[name] for name in CATEGORIES if isinstance(answered.get(name), bool)}
    return {
        "type": "custom_event",
        "name": CONSENT_EVENT,
        "utk": hit.get("utk") if allowed.analytics and not request.bot else None,
        "properties": answers | {"version": portal.consent_version, "mode": portal.mode.value},
    }


def _identify(hit: Mapping[str, Any], portal: Portal, request: Request, allowed: Consent) -> Fields | Dropped:
    if not allowed.analytics:
        return Dropped.NO_CONSENT
    if portal.identify is IdentifyMode.SIGNED and not is_signed(hit, portal, request.received_at):
        return Dropped.UNSIGNED
    return {"type": "identify", "properties": _properties(hit, allowed)} | {name: hit.get(name) for name in ("utk", "email", "external_id")}


def _form(hit: Mapping[str, Any], portal: Portal, request: Request, allowed: Consent) -> Fields | Dropped:
    if not portal.has(hit.get("page_url")):
        return Dropped.FOREIGN_URL
    fields = {name: hit.get(name) for name in ("form_id", "email", "fields", "create_new_contact")} | {"type": "form_submission"}
    if normalise.email(fields["email"]) is None:
        del fields["email"]  # a person sent the form: it counts, as one without an address
    return fields | sender(hit.get("utk"), hit["page_url"], portal, request, allowed)


def sender(utk: object, page_url: object, portal: Portal, request: Request, allowed: Consent) -> Fields:
    """Who sent a form, and from where: after a no without cookie, address and browser."""
    if not isinstance(page_url, str):
        page_url = None
    if not allowed.analytics:
        return {"page_url": urls.reduced(page_url) if page_url else None}
    return {
        "utk": utk,
        "page_url": urls.cleaned(page_url) if page_url else None,
        "ip": addresses.kept(request.ip, portal.ip),
        "user_agent": request.user_agent,
    }


def _returned_click(hit: Mapping[str, Any], portal: Portal, request: Request, allowed: Consent) -> Fields | Dropped:
    """The landing page hands back a click with its cookie: the same event again, only the utk is new."""
    if not allowed.analytics:
        return Dropped.NO_CONSENT
    token = hit.get("click")
    click = links.opened_click(portal.keys, portal.id, token, request.received_at) if isinstance(token, str) else None
    utk = normalise.utk(hit.get("utk"))
    if click is None or utk is None or request.bot:
        return Dropped.INVALID_CLICK
    return links.click_fields(click, Utk(utk))


def clicker(portal: Portal, request: Request) -> Fields:
    """Who followed a link, where the portal need not ask first: the link's host knows of no answer."""
    if not allowed(None, portal, request).analytics:
        return {}
    return {"ip": addresses.kept(request.ip, portal.ip), "user_agent": request.user_agent}


_MADE: Mapping[str, Callable[[Mapping[str, Any], Portal, Request, Consent], Fields | Dropped]] = {
    "page_view": _page_view,
    "custom_event": lambda hit, *rest: (_answer if hit.get("name") == CONSENT_EVENT else _custom_event)(hit, *rest),
    "identify": _identify,
    "form_submission": _form,
    "email_click": _returned_click,
}


def is_signed(hit: Mapping[str, Any], portal: Portal, now: Millis) -> bool:
    """Whether the site's server vouches for an identify call, until a time in ms."""
    expires, signature = hit.get("expires"), hit.get("signature")
    if portal.server_key is None or type(expires) is not int or expires <= now or not isinstance(signature, str):
        return False
    expected = signature_of(portal.server_key, portal.id, hit.get("email"), hit.get("external_id"), expires)
    return compare_digest(expected.encode(), signature.encode("utf-8", "replace"))


def signature_of(key: bytes, portal: int, email: object, external_id: object, expires: int) -> str:
    """What the site's server computes: HMAC-SHA256 in hex over portal, email, id and expiry, a line each, absent ones empty."""
    told = "\n".join(["identify", str(portal), str(email or ""), str(external_id or ""), str(expires)])
    return new(key, told.encode("utf-8", "replace"), sha256).hexdigest()


def device(user_agent: str | None) -> str:
    """The class of a device, coarse enough for everybody's log."""
    told = user_agent or ""
    if "iPad" in told or "Tablet" in told or ("Android" in told and "Mobile" not in told):
        return "tablet"
    if "Mobi" in told:
        return "mobile"
    return "desktop" if told else "unknown"


def _properties(hit: Mapping[str, Any], allowed: Consent) -> Fields:
    given = _object(hit.get("properties"))
    return given if allowed.functionality else {name: value for name, value in given.items() if name != "messages_utk"}


def _object(value: object) -> Fields:
    return value if isinstance(value, dict) else {}


def _cleaned(url: object) -> str | None:
    return urls.cleaned(url) if isinstance(url, str) else None
