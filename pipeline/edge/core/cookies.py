"""What the collector believes of the tracking cookies that a browser reports (spec: edge.md, "Cookies").

The script writes them; here they are hints that are kept if they have the right form.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

UTK_COOKIE = "hubspotutk"
LIFE_S = 180 * 24 * 3600
"""6 months."""

_HSTC = re.compile(r"[0-9]+\.[0-9a-f]{32}\.[0-9]{1,15}\.[0-9]{1,15}\.[0-9]{1,15}\.[0-9]{1,9}")
_HSSC = re.compile(r"[0-9]+\.[0-9]{1,9}\.[0-9]{1,15}")


def hstc(value: object) -> str | None:
    """The cookie as it is, if it has six parts: domain hash, utk, three times in ms, number of sessions."""
    return value if isinstance(value, str) and _HSTC.fullmatch(value) else None


def hssc(value: object) -> str | None:
    """The cookie as it is, if it has three parts: domain hash, views, start of the session in ms."""
    return value if isinstance(value, str) and _HSSC.fullmatch(value) else None


def is_within(host: str, domain: str) -> bool:
    """Whether a host is a domain or below it."""
    return host == domain or host.endswith("." + domain)


def cookie_domain(host: str, domains: Sequence[str]) -> str | None:
    """The longest of the portal's domains that the host is within; None means a cookie of the host alone."""
    return max((domain for domain in domains if is_within(host, domain)), key=len, default=None)


def renewed(utk: str, host: str, domains: tuple[str, ...], *, secure: bool) -> str:
    """The Set-Cookie value that gives the utk its full life again, which Safari cuts to 7 days for cookies of scripts."""
    return f"{UTK_COOKIE}={utk}{_attributes(host, domains, secure)}"


@lru_cache(maxsize=1_024)
def _attributes(host: str, domains: tuple[str, ...], secure: bool) -> str:  # noqa: FBT001 - a key of the cache
    domain = cookie_domain(host, domains)
    place = f"; Domain={domain}" if domain else ""
    return f"{place}; Path=/; Max-Age={LIFE_S}; SameSite=Lax{'; Secure' if secure else ''}"
