"""What the routes answer besides Starlette's responses: errors that end a request, and JSON."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pipeline.edge import bugs

UNCACHED = {"Cache-Control": "no-store"}
RETRY_S = 5

Headers = Mapping[str, str]


class AnswerError(Exception):
    """Ends a request with this status and machine-readable error."""

    def __init__(self, status: int, error: str, headers: Headers | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.headers = dict(headers or {})


def too_many(wait_s: int, headers: Headers) -> AnswerError:
    return AnswerError(429, "too_many_requests", {**headers, "Retry-After": str(wait_s)})


def spool_full(headers: Headers) -> AnswerError:
    return AnswerError(503, "spool_full", {**headers, "Retry-After": str(RETRY_S)})


def refusal(error: AnswerError) -> Response:
    return json({"error": error.error}, error.status, error.headers)


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


async def answered(endpoint: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
    """The route's answer, or its refusal. A bug of ours is a 500 and a traceback without the values in it."""
    try:
        return await endpoint(request)
    except AnswerError as error:
        return refusal(error)
    except Exception as error:  # noqa: BLE001 - the outermost frame of a request
        return bug(error)


def bug(error: Exception) -> Response:
    """Logs where it happened."""
    bugs.note(error)
    return json({"error": "internal"}, 500)


async def refused(_: Request, error: Exception) -> Response:
    """What Starlette itself refuses: no such route, another method."""
    assert isinstance(error, HTTPException)
    return json({"error": "no_such_route" if error.status_code == 404 else "refused"}, error.status_code, error.headers)
