"""The collector (spec: edge.md, "Collector"): an ASGI application that turns requests into raw events.

Each route is the same story: which portal, may this origin and this address ask, read the body within bounds, decide (in
`pipeline.edge.core`), have the events safe, answer. Answers name positions and reasons, never values.
"""

import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import anyio.to_thread
import orjson
from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pipeline.core.events import EmailClick, Event, EventId, Millis, PortalId
from pipeline.edge import answers, asked, bodies, metrics, openapi, served_script
from pipeline.edge.answers import UNCACHED, AnswerError, Headers
from pipeline.edge.asked import Told
from pipeline.edge.bodies import BodyError, Room
from pipeline.edge.clicks import Clicks
from pipeline.edge.core import forms, hits, links, sealing, visitors
from pipeline.edge.core.addresses import Network
from pipeline.edge.core.hits import Dropped
from pipeline.edge.core.hits import Request as About
from pipeline.edge.core.portal import Portal
from pipeline.edge.delivery import Delivery, SpoolFullError
from pipeline.edge.limits import Limits
from pipeline.edge.renewal import renewed
from pipeline.logs import logger

GIF = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")
_THANKS = "<!doctype html><meta charset=utf-8><title>Thank you</title><p>Thank you."

log = logger("edge")


@dataclass(slots=True)
class Collector:
    """What the routes share. `portals` may be replaced while it runs."""

    portals: Mapping[PortalId, Portal]
    delivery: Delivery
    clicks: Clicks
    trusted: Sequence[Network] = ()
    limits: Limits = field(default_factory=Limits)
    room: Room = field(default_factory=Room)

    def app(self) -> Starlette:
        """The application; whoever mounts it starts and stops `delivery` on the same loop."""
        app = Starlette(
            routes=[
                Route("/e/{portal:portal}", _Route("/e", self.hits), methods=["POST", "OPTIONS"]),
                Route("/e/{portal:portal}.gif", _Route("/e.gif", self.gif), methods=["GET", "HEAD"]),
                Route("/forms/{portal:portal}/{form}", _Route("/forms", self.form), methods=["POST", "OPTIONS"]),
                Route("/l/{token}", _Route("/l", self.link), methods=["GET", "HEAD"]),
                Route("/t/{portal:portal}.js", _Route("/t", self.script), methods=["GET", "HEAD"]),
                Route("/t/{portal:portal}/banner.js", _Route("/t", self.banner), methods=["GET", "HEAD"]),
                Route("/health", _Route("/health", self.health), methods=["GET"]),
                Route("/ready", _Route("/ready", self.ready), methods=["GET"]),
                Route("/openapi.json", _Route("/openapi.json", self.document), methods=["GET"]),
            ],
            exception_handlers={HTTPException: answers.refused},
        )
        app.router.redirect_slashes = False  # the place would be of the Host that the request names
        return app

    async def hits(self, request: Request) -> Response:
        portal, told = self._portal(request), Told(request.scope["headers"])
        cors = self._cors(portal, told, required=True)
        if request.scope["method"] == "OPTIONS":
            return answers.preflight(cors)
        about = self._about(portal, request, told, cors)
        body = await _bounded(bodies.body(request, told, self.room), cors)
        given = _loaded(body, cors)
        if isinstance(given, dict) and given.get("type") in ("carry", "adopt"):
            return answers.json(_VISITORS[given["type"]](given, portal, about), 202, {**cors, **UNCACHED})
        sent, sent_at = _hits(given, cors)
        made = [hits.event_of(hit, portal, about, sent_at) for hit in sent]
        for position, event in enumerate(made):
            if isinstance(event, EmailClick) and not await self._is_first(event, about.received_at, cors):
                made[position] = Dropped.INVALID_CLICK.value
        events = [event for event in made if isinstance(event, Event)]
        await self._accept(events, cors)
        reasons = [(position, str(reason)) for position, reason in enumerate(made) if isinstance(reason, str)]
        for _, reason in reasons:
            metrics.refused(reason)
        refused = [{"position": position, "reason": reason} for position, reason in reasons]
        headers = {**cors, **UNCACHED}
        if cookie := renewed(events, portal, told):
            headers["Set-Cookie"] = cookie
        return answers.json({"accepted": len(events), "refused": refused}, 202, headers)

    async def gif(self, request: Request) -> Response:
        portal = self._portal(request)
        told = Told(request.scope["headers"])
        about = self._about(portal, request, told, {})
        if request.method == "GET" and not _is_prefetch(told):
            asked = request.query_params
            view = {"type": "page_view", "event_id": str(uuid4()), "occurred_at": about.received_at, "title": asked.get("title")}
            view |= {"url": asked.get("url") or told.get(b"referer"), "referrer": asked.get("referrer")}
            event = hits.event_of(view, portal, about)
            if isinstance(event, Event):
                await self._accept([event], {})
        return Response(GIF, media_type="image/gif", headers=UNCACHED)

    async def form(self, request: Request) -> Response:
        portal, form_id = self._portal(request), request.path_params["form"]
        if not forms.FORM_ID.fullmatch(form_id):
            raise AnswerError(404, "unknown_form")
        told = Told(request.scope["headers"])
        cors = self._cors(portal, told, required=False)
        if request.method == "OPTIONS":
            return answers.preflight(cors)
        about = self._about(portal, request, told, cors)
        is_html = told.text(b"content-type").startswith(("application/x-www-form-urlencoded", "multipart/form-data"))
        if is_html:
            inputs = await _bounded(bodies.pairs(request, told, self.room, forms.MAX_VALUES), cors)
            submission: forms.Submission | forms.FormError = forms.of_html(inputs, told.get(b"referer"))
        else:
            submission = forms.of_json(_loaded(await _bounded(bodies.body(request, told, self.room), cors), cors))
        if isinstance(submission, forms.FormError):
            return _form_errors([submission], cors)
        submission = submission._replace(is_from_server=_has_server_key(portal, told))
        event = forms.event_of(submission, portal, form_id, about, _event_id(told, portal, form_id))
        if not isinstance(event, Event):
            return _form_errors(event, cors)
        await self._accept([event], cors)
        return _thanked(portal, form_id, cors) if is_html else answers.json({"accepted": 1}, 202, {**cors, **UNCACHED})

    async def link(self, request: Request) -> Response:
        token = request.path_params["token"]
        portal = self.portals.get(sealing.portal_of(token) or PortalId(0))
        link = links.opened_link(portal.keys, portal.id, token) if portal else None
        if portal is None or link is None:
            raise AnswerError(404, "unknown_link")
        told = Told(request.scope["headers"])
        if _is_prefetch(told):
            raise AnswerError(425, "not_for_prefetch", UNCACHED)
        about = self._about(portal, request, told, {})
        if request.method == "HEAD":
            return RedirectResponse(link.url, 302, UNCACHED)
        click = links.followed(link, EventId(str(uuid4())), about.received_at, by_bot=about.bot is not None)
        event = hits.as_event(links.click_fields(click) | hits.clicker(portal, about), portal, about)
        try:
            await self._accept([event] if isinstance(event, Event) else [], {})
        except AnswerError:  # the reader gets to the page, whatever becomes of the event
            return RedirectResponse(link.url, 302, UNCACHED)
        if link.expires_at <= about.received_at or not portal.has(link.url):
            return RedirectResponse(link.url, 302, UNCACHED)
        sealed = links.sealed_click(portal.keys, portal.id, click, secrets.token_bytes(sealing.NONCE_BYTES))
        return RedirectResponse(links.landing(link.url, sealed), 302, UNCACHED)

    async def script(self, request: Request) -> Response:
        return _script(request, served_script.tracking(self._portal(request)))

    async def banner(self, request: Request) -> Response:
        self._portal(request)
        return _script(request, served_script.banner())

    async def health(self, _: Request) -> Response:
        return answers.json({"status": "alive"})

    async def ready(self, _: Request) -> Response:
        if self.delivery.spool.is_full:
            raise answers.spool_full({})
        return answers.json({"status": "ready", "kafka": "away" if self.delivery.away else "there"})

    async def document(self, _: Request) -> Response:
        return answers.json(openapi.DOCUMENT)

    def _portal(self, request: Request) -> Portal:
        portal = self.portals.get(request.path_params["portal"])
        if portal is None:
            raise AnswerError(404, "unknown_portal")
        return portal

    def _cors(self, portal: Portal, told: Told, *, required: bool) -> Headers:
        """The headers by which a page of the portal may read the answer. AnswerError 403 to any other page."""
        origin = told.get(b"origin")
        if origin is None and not required:
            return {}
        if origin is None or not portal.has_origin(origin):
            raise AnswerError(403, "foreign_origin", {"Vary": "Origin"})
        return answers.cors(origin)

    def _about(self, portal: Portal, request: Request, told: Told, cors: Headers) -> About:
        """What we know of the sender. AnswerError 429 if it asks too often."""
        ip = asked.address(told, request.client.host if request.client else "", self.trusted)
        if wait := self.limits.retry_after(portal, ip, time.monotonic()):
            raise answers.too_many(wait, cors)
        return asked.about(told, ip)

    async def _accept(self, events: Sequence[Event], cors: Headers) -> None:
        """Returns when the events are safe. AnswerError 503 if there is no room for them."""
        if not events:
            return
        try:
            await self.delivery.accept(events)
        except SpoolFullError:
            raise answers.spool_full(cors) from None
        for event in events:
            metrics.accepted(event.type)

    async def _is_first(self, click: EmailClick, now: Millis, cors: Headers) -> bool:
        """AnswerError 503 if the disk does not take who is."""
        assert click.utk is not None
        try:
            return await anyio.to_thread.run_sync(self.clicks.is_first, click.event_id, click.utk, now)
        except sqlite3.OperationalError as error:
            log.error("the clicks cannot be written", error=error.sqlite_errorname)  # noqa: TRY400 - the disk's failure
            raise answers.spool_full(cors) from None


def _carried(asked: Mapping[str, Any], portal: Portal, about: About) -> Mapping[str, str | None]:
    return {"token": visitors.sealed_visitor(asked, portal, about, secrets.token_bytes(sealing.NONCE_BYTES))}


def _adopted(asked: Mapping[str, Any], portal: Portal, about: About) -> Mapping[str, str | None]:
    return {"utk": visitors.opened_visitor(asked, portal, about)}


_VISITORS = {"carry": _carried, "adopt": _adopted}
"""Requests of the script that are no hits: a visitor goes over to another domain of the portal."""


class _PortalNumber(IntegerConvertor):
    """Of no more digits than a portal has."""

    regex = "[0-9]{1,19}"


register_url_convertor("portal", _PortalNumber())


class _Route:
    """One route as an ASGI application, counted under a name."""

    def __init__(self, name: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        self._name = name
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        answer = await answers.answered(self._endpoint, Request(scope, receive))
        metrics.answered(self._name, answer.status_code, began)
        await answer(scope, receive, send)


async def _bounded(reading: Awaitable[Any], cors: Headers) -> Any:
    try:
        return await reading
    except BodyError as error:
        again = {"Retry-After": str(answers.RETRY_S)} if error.status == 503 else {}
        raise AnswerError(error.status, error.error, {**cors, **again}) from None


def _loaded(body: bytes, cors: Headers) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise AnswerError(400, "malformed_json", cors) from None


def _hits(body: object, cors: Headers) -> tuple[list[Any], object]:
    """The hits of a body, and when the browser says that it sent them: one hit, a list, or {hits, sent_at}."""
    sent_at = body.get("sent_at") if isinstance(body, dict) else None
    sent = body.get("hits", [body]) if isinstance(body, dict) else body
    if not isinstance(sent, list):
        raise AnswerError(400, "malformed_hits", cors)
    if len(sent) > hits.MAX_HITS:
        raise AnswerError(413, "too_many_hits", cors)
    return sent, sent_at


def _script(request: Request, served: served_script.Served) -> Response:
    headers = {
        "ETag": served.etag,
        "Cache-Control": f"public, max-age={served_script.MAX_AGE_S}",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
    }
    if request.headers.get("if-none-match") == served.etag:
        return Response(status_code=304, headers=headers)
    return Response(served.body, headers=headers, media_type="text/javascript")


def _is_prefetch(told: Told) -> bool:
    return "prefetch" in (told.get(b"sec-purpose") or told.text(b"purpose"))


def _event_id(told: Told, portal: Portal, form_id: str) -> str:
    """Of a form: the same for the same key."""
    key = told.get(b"idempotency-key")
    return forms.keyed(portal, form_id, key) if key else str(uuid4())


def _has_server_key(portal: Portal, told: Told) -> bool:
    scheme, _, shown = told.text(b"authorization").partition(" ")
    return portal.server_key is not None and scheme == "Bearer" and secrets.compare_digest(shown.encode(), portal.server_key)


def _form_errors(errors: Sequence[forms.FormError], cors: Headers) -> Response:
    for error in errors:
        metrics.refused(error.type.value)
    told = [{"errorType": error.type.value, "message": error.message} for error in errors]
    return answers.json({"status": "error", "errors": told}, 400, dict(cors))


def _thanked(portal: Portal, form_id: str, cors: Headers) -> Response:
    """Where the portal, and nobody else, says that a sender goes."""
    url = portal.form(form_id).thank_you or portal.thank_you
    if url is None:
        return Response(_THANKS, 200, dict(cors) | UNCACHED, "text/html")
    return RedirectResponse(url, 303, dict(cors) | UNCACHED)
