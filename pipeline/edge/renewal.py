"""The utk's cookie, set anew by the answer to a hit (spec: edge.md): browsers keep what a server sets longer than what a script does."""

from collections.abc import Sequence
from functools import lru_cache

from pipeline.core.events import Event, PageView, Utk
from pipeline.edge.asked import Told
from pipeline.edge.core import cookies
from pipeline.edge.core.portal import Portal
from pipeline.edge.core.urls import host

_LONGEST_HOST = 300
"""Characters of a Host header that may be ours: a name and a port."""


def renewed(events: Sequence[Event], portal: Portal, told: Told) -> str | None:
    """The utk's cookie for its full life, if a consented page view brought it and the browser still has it: none is revived."""
    utk = _utk(events)
    if utk is None or f"; {cookies.UTK_COOKIE}={utk};" not in f"; {told.text(b'cookie')};":
        return None
    origin, ours = told.text(b"origin"), told.text(b"host")
    page = _page_with_our_domain(origin, ours, portal.domains) if len(ours) <= _LONGEST_HOST else None
    return None if page is None else cookies.renewed(utk, page, portal.domains, secure=origin.startswith("https:"))


def _utk(events: Sequence[Event]) -> Utk | None:
    for event in events:
        if isinstance(event, PageView) and event.utk:
            return event.utk
    return None


@lru_cache(maxsize=1_024)
def _page_with_our_domain(origin: str, ours: str, domains: tuple[str, ...]) -> str | None:
    """The host of a page, if we, under the name by which we were asked, may set the cookies of its domain."""
    mine, page = host("http://" + ours), host(origin) or ""
    domain = cookies.cookie_domain(page, domains)
    return page if mine is not None and domain is not None and cookies.is_within(mine, domain) else None
