"""Who is no person (spec: edge.md, "Bots"): crawlers and HTTP libraries from a kept list, browsers that say that nobody looks."""

from functools import lru_cache

from crawleruseragents import is_crawler

LONGEST = 512
"""Characters of a User-Agent that are looked at, and kept."""
_HEADLESS = ("HeadlessChrome", "PhantomJS", "jsdom")


@lru_cache(maxsize=4_096)
def why(user_agent: str | None) -> str | None:
    """The reason why a sender is no person; None for what looks like one."""
    if not user_agent:
        return "no_user_agent"
    if any(mark in user_agent for mark in _HEADLESS):
        return "headless"
    return "crawler" if is_crawler(user_agent) else None
