"""`python -m pipeline edge check URL`: whether a page carries the script rightly, each finding a line (spec: edge.md, "Portals")."""

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import requests

from pipeline.core.events import PortalId
from pipeline.edge.core.portal import Portal
from pipeline.errors import UserError

TIMEOUT_S = 10
_SCRIPT = re.compile(r"/t/([0-9]+)\.js")


class Finding(NamedTuple):
    good: bool
    said: str


class _Scripts(HTMLParser):
    """The attributes of every script element of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.found.append(dict(attrs))


def check(url: str, portals: Mapping[PortalId, Portal]) -> list[Finding]:
    """What is right and wrong with a page. UserError if it cannot be had."""
    page = _got(url)
    if not page.ok:
        raise UserError(f"{url}: the page answers with status {page.status_code}")
    parser = _Scripts()
    parser.feed(page.text)
    ours = [script for script in parser.found if _SCRIPT.search(urlsplit(script.get("src") or "").path)]
    if not ours:
        return [Finding(good=False, said="there is no script of ours: add <script async src=https://YOUR-COLLECTOR/t/PORTAL.js></script>")]
    return [Finding(len(ours) == 1, f"the script is there {len(ours)} times; once is right"), *_script(page, ours[0], portals)]


def _script(page: requests.Response, script: Mapping[str, str | None], portals: Mapping[PortalId, Portal]) -> Iterator[Finding]:
    yield Finding("async" in script, "it is loaded async" if "async" in script else "it holds up the page: add async")
    address = urljoin(page.url, script.get("src") or "")
    match = _SCRIPT.search(urlsplit(address).path)
    portal = portals.get(PortalId(int(match[1]))) if match else None
    if portal is None:
        yield Finding(good=False, said=f"{address} is of a portal that is not in the portals file")
        return
    within = portal.has(page.url)
    yield Finding(within, f"the page is {'' if within else 'not '}on the domains of portal {portal.id}: {', '.join(portal.domains)}")
    served = _got(address)
    right = served.ok and "javascript" in served.headers.get("Content-Type", "")
    yield Finding(right, f"{address} answers with status {served.status_code}")
    policy = page.headers.get("Content-Security-Policy", "")
    yield from _policy(policy, page.url, address) if policy else ()


def _policy(policy: str, page: str, address: str) -> Iterator[Finding]:
    """Whether the page's policy lets the script load and send; sources with wildcards and nonces are left to the reader."""
    stated = {words[0].lower(): words[1:] for words in map(str.split, policy.split(";")) if words}
    parts = urlsplit(address)
    names = {f"{parts.scheme}://{parts.netloc}", parts.netloc, "*", f"{parts.scheme}:"}
    if urlsplit(page)[:2] == parts[:2]:
        names.add("'self'")
    for directive in ("script-src", "connect-src"):
        sources = stated.get(directive, stated.get("default-src", ["*"]))
        allowed = bool(names & set(sources))
        yield Finding(
            allowed, f"Content-Security-Policy: {directive} {'allows' if allowed else 'does not name'} {parts.scheme}://{parts.netloc}"
        )


def _got(url: str) -> requests.Response:
    try:
        return requests.get(url, timeout=TIMEOUT_S, headers={"User-Agent": "edge-check"})
    except requests.RequestException as error:
        raise UserError(f"{url}: cannot be had ({type(error).__name__}); is the address right?") from None
