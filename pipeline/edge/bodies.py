"""Request bodies within bounds: of size, also after inflation, and of time."""

import asyncio
import re
import zlib
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from pipeline.edge.asked import Told

MAX_BYTES = 512 * 1024
PATIENCE_S = 10.0
"""How long a client may take to send its body."""
MOST_BYTES = 64 << 20
"""Of all bodies that are not whole yet."""
_OTHER_CHARSET = re.compile(r"charset\s*=\s*\"?(?!utf-?8)", re.IGNORECASE)
"""Python knows some that take the square of a text's length to read."""


class BodyError(Exception):
    """A body that is not taken, with the status of the answer."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


class Room:
    """What the bodies that are on their way take of the memory."""

    def __init__(self) -> None:
        self.taken = 0


async def body(request: Request, told: Told, room: Room) -> bytes:
    """The whole body, inflated if it says gzip. BodyError if it is too large, too slow or no gzip, or if there is no room for it."""
    raw = await _received(request, told, room)
    encoding = told.text(b"content-encoding").strip().lower()
    if encoding in ("", "identity"):
        return raw
    if encoding != "gzip":
        raise BodyError(415, "unsupported_encoding")
    return _inflated(raw)


async def pairs(request: Request, told: Told, room: Room, limit: int) -> list[tuple[str, str]]:
    """The inputs of an HTML form, in their order, without files; up to one more than `limit`."""
    if told.text(b"content-type").startswith("multipart/form-data"):
        return await _parts(request, told, room, limit)
    text = (await body(request, told, room)).decode("utf-8", "replace")
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=limit + 1)
    except ValueError:
        raise BodyError(400, "too_many_fields") from None


async def _received(request: Request, told: Told, room: Room) -> bytes:
    stated = told.text(b"content-length")
    if stated.isdigit() and int(stated[:12]) > MAX_BYTES:
        raise BodyError(413, "too_large")
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await _chunks(request, room)
    except TimeoutError:
        raise BodyError(408, "too_slow") from None


async def _chunks(request: Request, room: Room) -> bytes:
    chunks: list[bytes] = []
    size, more = 0, True
    try:
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise BodyError(408, "too_slow")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            room.taken += len(chunks[-1])
            more = message.get("more_body", False)
            if size > MAX_BYTES:
                raise BodyError(413, "too_large")
            if more and room.taken > MOST_BYTES:
                raise BodyError(503, "busy")
    finally:
        room.taken -= size
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _inflated(raw: bytes) -> bytes:
    """Never inflates more than is allowed, whatever the body promises."""
    inflating = zlib.decompressobj(wbits=31)
    try:
        inflated = inflating.decompress(raw, MAX_BYTES + 1)
    except zlib.error:
        raise BodyError(400, "malformed_gzip") from None
    if len(inflated) > MAX_BYTES:
        raise BodyError(413, "too_large")
    if not inflating.eof or inflating.unused_data:
        raise BodyError(400, "malformed_gzip")
    return inflated


async def _parts(request: Request, told: Told, room: Room, limit: int) -> list[tuple[str, str]]:
    """Reads the body first, so that the same bounds hold; then parses it."""
    if _OTHER_CHARSET.search(told.text(b"content-type")):
        raise BodyError(415, "unsupported_charset")
    whole = await body(request, told, room)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": whole, "more_body": False}

    try:
        form = await Request(request.scope, receive).form(max_files=limit, max_fields=limit + 1, max_part_size=MAX_BYTES)
    except (HTTPException, MultiPartException, ValueError, KeyError):
        raise BodyError(400, "malformed_form") from None
    found = [(name, value) for name, value in form.multi_items() if not isinstance(value, UploadFile)]
    await form.close()
    return found
