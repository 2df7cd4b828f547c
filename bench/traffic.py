"""Made-up traffic of the usual kind, the same for the same arguments: mostly page views, a few per cent evidence;
of a thousand events one takes back another, and one makes two contacts one.

Cookies visit in sessions over two weeks, a few of them often, most of them once or twice; lines are in the order of time,
as a collector would publish them.
"""

import heapq
import random
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

START = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""
_SPAN = 14 * 86_400_000
_THINKING = 40_000
"""Mean time between two events of a session, in ms."""
_SESSION_LENGTH = 3.3
"""Mean number of events of a session."""
_KINDS = {
    "page_view": 0.928,
    "custom_event": 0.03,
    "email_click": 0.015,
    "form_submission": 0.015,
    "identify": 0.007,
    "contact_import": 0.003,
    "retraction": 0.001,
    "contact_merge": 0.001,
}
_WITHOUT_COOKIE = {"contact_import", "retraction", "contact_merge"}
_PORTALS = 20
_PATHS = [
    f"/{section}/{page}"
    for section in ("blog", "products", "pricing", "docs", "customers", "careers", "about", "support")
    for page in ("", "overview", "getting-started", "comparison", "release-notes", "integrations", "security", "case-study-retail")
]
_CAMPAIGNS = (
    "",
    "",
    "",
    "",
    "",
    "?utm_source=google&utm_medium=cpc&utm_campaign=brand",
    "?utm_source=newsletter&utm_medium=email",
    "?gclid=Cj0KCQ",
)
_REFERRERS = (
    None,
    None,
    "https://www.google.com/",
    "https://www.bing.com/search?q=analytics",
    "https://news.ycombinator.com/",
    "https://t.co/a1B2",
)
_AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Safari/604.1",
    "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """How much: exactly `events` events of exactly `cookies` cookies (imports, retractions and merges have none), drawn with `seed`."""

    events: int
    cookies: int
    seed: int = 1

    def write(self, path: Path) -> None:
        """Writes the events as JSON lines."""
        with path.open("wb") as file:
            for event in self.lines():
                file.write(event)

    def lines(self) -> Iterator[bytes]:
        """The events as JSON lines with their ends, in the order of their times."""
        draw = random.Random(self.seed)
        coming = sorted(self._sessions(draw), reverse=True)
        said = _Said()
        running: list[tuple[int, int, int]] = []  # (time of the next event, cookie, events left)
        while coming or running:
            if not running or (coming and coming[-1][0] <= running[0][0]):
                heapq.heappush(running, coming.pop())
                continue
            at, cookie, left = heapq.heappop(running)
            if left > 1:
                heapq.heappush(running, (at + int(draw.expovariate(1 / _THINKING)) + 1, cookie, left - 1))
            yield orjson.dumps(said.known(_event(draw, cookie, at)), option=orjson.OPT_APPEND_NEWLINE)

    def _sessions(self, draw: random.Random) -> Iterator[tuple[int, int, int]]:
        """Start, cookie and number of events of each session: one of every cookie, then more of the frequent ones."""
        left, waiting = self.events, self.cookies
        while left:
            cookie = self.cookies - waiting if waiting else int(self.cookies * draw.random() ** 2)
            waiting = max(waiting - 1, 0)
            length = min(1 + int(draw.expovariate(1 / (_SESSION_LENGTH - 1))), left - waiting)
            left -= length
            yield START + draw.randrange(_SPAN), cookie, length


class _Said:
    """What was said last in each portal, for events that speak of others."""

    def __init__(self) -> None:
        self._event: dict[int, str] = {}
        self._addresses: defaultdict[int, deque[str]] = defaultdict(lambda: deque(maxlen=2))

    def known(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event; what it speaks of is known by now, if anything is."""
        portal, addresses = event["portal_id"], self._addresses[event["portal_id"]]
        if event["type"] == "retraction" and portal in self._event:
            event["retracts"] = self._event[portal]
        elif event["type"] == "contact_merge" and len(addresses) == addresses.maxlen:
            event["primary"], event["secondary"] = addresses
        elif "email" in event:
            addresses.append(event["email"])
        self._event[portal] = event["event_id"]
        return event


def _event(draw: random.Random, cookie: int, at: int) -> dict[str, Any]:
    kind = draw.choices(tuple(_KINDS), tuple(_KINDS.values()))[0]
    portal = 1 + cookie % _PORTALS
    host = f"https://www.site-{portal}.example"
    event: dict[str, Any] = {"type": kind, "event_id": _uuid(draw), "portal_id": portal, "occurred_at": at, "received_at": at + 120}
    if kind not in _WITHOUT_COOKIE:
        event["utk"] = f"{(cookie + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}"
    return event | _FIELDS[kind](draw, cookie, host)


def _page_view(draw: random.Random, cookie: int, host: str) -> dict[str, Any]:
    path = draw.choice(_PATHS)
    referrer = draw.choice(_REFERRERS) or host + draw.choice(_PATHS)
    return {
        "url": host + path + draw.choice(_CAMPAIGNS),
        "title": path.strip("/").replace("/", " - ").replace("-", " ").title(),
        "referrer": referrer,
        "user_agent": _AGENTS[cookie % len(_AGENTS)],
        "ip": f"203.0.{cookie >> 8 & 255}.{cookie & 255}",
    }


def _email(draw: random.Random, cookie: int) -> str:
    """Mostly the address of the cookie's person, who has two browsers; sometimes somebody else's."""
    person = cookie // (2 * _PORTALS) if draw.random() < 0.97 else draw.randrange(1000)
    return f"person.{person}@mail-{cookie % _PORTALS}.example"


def _custom_event(draw: random.Random, _cookie: int, _host: str) -> dict[str, Any]:
    return {"name": "added_to_cart", "properties": {"sku": draw.randrange(500), "price": 19.9}}


def _email_click(draw: random.Random, cookie: int, host: str) -> dict[str, Any]:
    return {
        "recipient_email": _email(draw, cookie),
        "send_id": f"send-{draw.randrange(50)}",
        "url": f"{host}/blog/release-notes",
        "bot": draw.random() < 0.1,
    }


def _form_submission(draw: random.Random, cookie: int, host: str) -> dict[str, Any]:
    return {
        "form_id": "contact",
        "email": _email(draw, cookie),
        "page_url": f"{host}/about/",
        "fields": {"firstname": "Kim", "topic": "pricing"},
    }


def _identify(draw: random.Random, cookie: int, _host: str) -> dict[str, Any]:
    return {"email": _email(draw, cookie), "external_id": f"crm-{cookie // (2 * _PORTALS)}"}


def _contact_import(draw: random.Random, cookie: int, _host: str) -> dict[str, Any]:
    return {"email": _email(draw, cookie)}


def _retraction(draw: random.Random, _cookie: int, _host: str) -> dict[str, Any]:
    """Of an event that nobody knows."""
    return {"retracts": _uuid(draw)}


def _contact_merge(draw: random.Random, cookie: int, _host: str) -> dict[str, Any]:
    """Of people of whom nothing may be known."""
    return {"primary": _email(draw, cookie), "secondary": _email(draw, cookie + 2 * _PORTALS)}


_FIELDS = {
    "page_view": _page_view,
    "custom_event": _custom_event,
    "email_click": _email_click,
    "form_submission": _form_submission,
    "identify": _identify,
    "contact_import": _contact_import,
    "retraction": _retraction,
    "contact_merge": _contact_merge,
}


def _uuid(draw: random.Random) -> str:
    digits = f"{draw.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
