"""What the routes answer besides Starlette's responses: errors that end a request, JSON, and the answer of nearly all hits."""

import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pipeline.edge.connections import AT_ONCE
from pipeline.logs import logger

UNCACHED = {"Cache-Control": "no-store"}

log = logger("edge")

Headers = Mapping[str, str]


class AnswerError(Exception):
    """Ends a request with this status and machine-readable error."""

    def __init__(self, status: int, error: str, headers: Headers | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.headers = dict(headers or {})


class Accepted:
    """202 for hits none of which was refused; what many of them have in common is made once."""

    status_code = 202

    __slots__ = ("_common", "_cookie")

    def __init__(self, count: int, origin: str, cookie: str | None) -> None:
        self._common = _accepted(count, origin)
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if at_once := scope.get("extensions", {}).get(AT_ONCE):
            cookie = f"set-cookie: {self._cookie}\r\n".encode("latin-1") if self._cookie else b""
            if at_once["send"](b"202 Accepted", cookie + self._common.as_bytes):
                return
        response = Response(self._common.body, 202, self._common.headers)
        if self._cookie:
            response.headers["set-cookie"] = self._cookie
        await response(scope, receive, send)


class _Common(NamedTuple):
    headers: Headers
    body: bytes
    as_bytes: bytes
    """Headers and body, as they go over the wire."""


@lru_cache(maxsize=1_024)
def _accepted(count: int, origin: str) -> _Common:
    body = orjson.dumps({"accepted": count, "refused": []})
    headers = {"Content-Length": str(len(body)), "Content-Type": "application/json", **cors(origin), **UNCACHED}
    lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items())
    return _Common(headers, body, f"{lines}\r\n".encode("latin-1") + body)


Answer = Accepted | Response


def cors(origin: str) -> Headers:
    """The headers by which a page of this origin may read an answer."""
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true", "Vary": "Origin"}


def preflight(headers: Headers) -> Response:
    allowed = {
        "Access-Control-Allow-Methods": "POST",
        "Access-Control-Allow-Headers": "Content-Type, Content-Encoding, Idempotency-Key",
        "Access-Control-Max-Age": "7200",
    }
    return Response(status_code=204, headers={**headers, **allowed})


def json(told: Any, status: int = 200, headers: Headers | None = None) -> Response:
    return Response(orjson.dumps(told), status, headers, "application/json")


async def answered(endpoint: Callable[[Request], Awaitable[Answer]], request: Request) -> Answer:
    """The route's answer, or its refusal. A bug of ours is a 500 and a traceback without the values in it."""
    try:
        return await endpoint(request)
    except AnswerError as answer:
        return json({"error": answer.error}, answer.status, answer.headers)
    except Exception as error:  # noqa: BLE001 - the outermost frame of a request
        places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        log.error("a bug in the collector", kind=type(error).__name__, at=places)  # noqa: TRY400 - a traceback would show values
        return json({"error": "internal"}, 500)


async def refused(_: Request, error: Exception) -> Response:
    """What Starlette itself refuses: no such route, another method."""
    assert isinstance(error, HTTPException)
    return json({"error": "no_such_route" if error.status_code == 404 else "refused"}, error.status_code, error.headers)
