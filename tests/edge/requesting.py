"""What the tests ask of the collector: hits, links and tokens as a browser or somebody else sends them."""

import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import requests

from pipeline.core.events import Millis, PortalId
from pipeline.edge.core import links
from tests.builders import utk
from tests.edge.running import KEY, ORIGIN, PERSON, SITE, Running

PAGE = f"{ORIGIN}/a"
NONCE = bytes(12)
THROUGH_A_PROXY = {"X-Forwarded-For": "203.0.113.77"}
CANARIES = ("canary@x.io", "canary%40x.io", "Canary/9", "127.0.0.1", "127.0.0.0", "203.0.113.", utk("canary"))
Parsed = tuple[int, dict[str, str], Any]
NO: dict[str, Any] = {"consent": {"analytics": False}}


def now() -> int:
    return time.time_ns() // 1_000_000


def view(**fields: Any) -> dict[str, Any]:
    return {"type": "page_view", "event_id": str(uuid4()), "occurred_at": now(), "sent_at": now(), "url": PAGE} | fields


def canary_view(**more: Any) -> dict[str, Any]:
    """A page view with something personal wherever there is room for it."""
    return view(
        url=f"{PAGE}/canary@x.io?mail=canary%40x.io&utm_source=ok",
        referrer="http://www.site.localhost/?q=canary@x.io",
        title="canary@x.io",
        utk=utk("canary"),
        hstc=f"1.{utk('canary')}.1.1.1.1",
        properties={"mail": "canary@x.io", "messages_utk": utk("canary")},
        **more,
    )


def link(url: str = PAGE, portal: int = SITE, key: str = KEY, ago: int = 60_000, life: int = 60_000) -> str:
    """The path of a link that was sent some time ago; negative `life`: it has expired."""
    told = links.Link("ann@x.io", "may", url, Millis(now() - ago), Millis(now() + life))
    return "/l/" + links.sealed_link([bytes.fromhex(key)], PortalId(portal), told, NONCE)


def landing(answer: requests.Response) -> str | None:
    """The sealed click in a redirect."""
    assert answer.status_code == 302
    return parse_qs(urlsplit(answer.headers["Location"]).query).get("_hsc", [None])[0]


def carried(edge: Running, **more: Any) -> str:
    """The token with which visitor `a` goes to another domain of the portal."""
    token = edge.post({"type": "carry", "utk": utk("a")} | more).json()["token"]
    assert isinstance(token, str)
    return token


def adopted(edge: Running, token: Any, **options: Any) -> Any:
    """The visitor that a page gets for a token."""
    return edge.post({"type": "adopt", "token": token}, **options).json()["utk"]


def hits(count: int = 1, **more: Any) -> dict[str, Any]:
    """A body as the script sends it."""
    return together([view(utk=utk("a"), **more) for _ in range(count)])


def together(views: list[dict[str, Any]]) -> dict[str, Any]:
    """Hits as the script sends them."""
    return {"sent_at": views[0]["sent_at"], "hits": [{name: value for name, value in each.items() if name != "sent_at"} for each in views]}


def canary_form(said: dict[str, Any]) -> dict[str, Any]:
    """A form with its sender's traces wherever there is room for them; what the sender wrote into it is no trace."""
    context = {"hutk": utk("canary"), "pageUri": f"{PAGE}/canary@x.io?mail=canary%40x.io&utm_source=ok", "pageName": "canary@x.io"}
    return {"fields": [{"name": "email", "value": "sender@x.io"}], "context": context | said}


def request(body: Any, portal: int = SITE, headers: Mapping[str, str] = PERSON) -> bytes:
    """Hits as they go over the wire."""
    return posted(f"/e/{portal}", json.dumps(body).encode(), headers)


def posted(path: str, content: bytes, headers: Mapping[str, str] = PERSON) -> bytes:
    """As it goes over the wire."""
    stated = {"Host": "t.site.localhost", **headers, "Content-Length": str(len(content))}
    head = "".join(f"{name}: {value}\r\n" for name, value in stated.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content


@contextmanager
def connected(edge: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=30) as connection:
        yield connection


def answer(connection: socket.socket) -> Parsed:
    """Status, headers (without those of the moment) and body of the next answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += _more(connection)
    headers.pop("date")
    return int(status.split()[1]), headers, json.loads(body) if body else None


def answered(edge: Running, pieces: Sequence[bytes]) -> Parsed:
    with connected(edge) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.1 if len(pieces) > 1 else 0)
        return answer(connection)


def _more(connection: socket.socket) -> bytes:
    received = connection.recv(65_536)
    if not received:
        raise ConnectionError("closed without an answer")
    return received
