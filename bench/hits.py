"""Page views as the tracking script sends them, as whole HTTP requests: the traffic of the other benchmarks, from browsers."""

import time
from collections.abc import Iterator
from functools import cache
from itertools import count, cycle, islice
from typing import Any
from urllib.parse import urlsplit

import orjson

from bench.traffic import Traffic

PORTAL = 1
PORTALS = f"""
[[portals]]
id = {PORTAL}
domains = ["site-1.example", "site-2.example"]
consent = {{ mode = "opt_in" }}
limits = {{ requests_per_minute = 1_000_000_000, requests_per_minute_and_ip = 1_000_000_000 }}
"""
"""A portals file with two sites of the traffic; the load comes from one address, which no limit may stop."""
_PATH = f"/e/{PORTAL}"
_PLACE = b"00000000-0000-4000-8000-000000000000"
_DIFFERENT = 500
"""Requests that are made; then they come again, with other ids."""
_HEAD = """POST {path} HTTP/1.1\r
Host: t.{domain}\r
Connection: keep-alive\r
Content-Length: {length}\r
User-Agent: {agent}\r
Content-Type: text/plain\r
Accept: */*\r
Origin: {origin}\r
Sec-Fetch-Site: same-site\r
Sec-Fetch-Mode: cors\r
Sec-Fetch-Dest: empty\r
Referer: {origin}/\r
Accept-Encoding: gzip, deflate, br, zstd\r
Accept-Language: en-GB,en;q=0.9\r
Cookie: __hstc={hstc}; hubspotutk={utk}; __hssrc=1; __hssc={hssc}; __hs_opt_out=no\r
\r
"""


def requests(batch: int, run: int) -> Iterator[bytes]:
    """Requests with `batch` hits of one visitor each, without end; no two hits of all runs (numbers) have the same id.

    What they have in common is made now, not when the first one is asked for: that would count as the server's time.
    """
    views = cycle(_views())
    templates = [_request(list(islice(views, batch))) for _ in range(_DIFFERENT)]
    return _numbered(templates, batch, run)


def _numbered(templates: list[bytes], batch: int, run: int) -> Iterator[bytes]:
    numbers = count()
    for template in cycle(templates):
        yield template % tuple(b"%08x-0000-4000-8000-%012x" % (run, next(numbers)) for _ in range(batch))


@cache
def _views() -> list[dict[str, Any]]:
    """The traffic's page views of the portal's sites."""
    events = map(orjson.loads, Traffic(events=20_000, cookies=5_000).lines())
    return [event for event in events if event["type"] == "page_view" and event["portal_id"] <= 2]


def _request(views: list[dict[str, Any]]) -> bytes:
    """A request of the visitor of the first view; the places of the ids are left open."""
    utk, agent, now = views[0]["utk"], views[0]["user_agent"], time.time_ns() // 1_000_000
    origin = "https://" + (urlsplit(views[0]["url"]).hostname or "")
    cookies = {"utk": utk, "hstc": f"114212440.{utk}.{now}.{now}.{now}.1", "hssc": f"114212440.3.{now}"}
    body = orjson.dumps({"sent_at": now, "hits": [_hit(view, cookies, now) for view in views]})
    domain = origin.removeprefix("https://www.")
    head = _HEAD.format(path=_PATH, domain=domain, length=len(body), agent=agent, origin=origin, **cookies)
    return (head.encode() + body).replace(b"%", b"%%").replace(_PLACE, b"%b")


def _hit(view: dict[str, Any], cookies: dict[str, str], now: int) -> dict[str, Any]:
    """The members in the order in which the script writes them."""
    hit = {
        "event_id": _PLACE.decode(),
        "occurred_at": now - 50,
        "consent": {"analytics": True, "advertisement": True, "functionality": True},
        "utk": cookies["utk"],
        "type": "page_view",
    }
    hit |= {name: view[name] for name in ("url", "title", "referrer")}
    hit["properties"] = {"canonical": view["url"].partition("?")[0]}
    return hit | {"hstc": cookies["hstc"], "hssc": cookies["hssc"], "new_browser_session": False}
