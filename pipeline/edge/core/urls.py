"""What of an address may reach the log (spec: edge.md, "Tracking script" and "Consent").

Addresses are cut as text, not rebuilt by a URL library: what is left stays as the browser wrote it, and the script does
the same with the same expressions (tests/edge/cases.json holds both to it).
"""

import re
from urllib.parse import urlsplit

from pipeline.core import normalise
from pipeline.core.caching import remembered

OUR_TOKENS = frozenset({"_hsc", "_hsx"})

_PARTS = re.compile(r"(https?://)([^/?#\\]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE | re.DOTALL)
_PLAIN_HOST = re.compile(r"https?://([a-z0-9.-]+)(?:[/?#][!-\[\]-~]*)?")
_SECRET_NAME = re.compile(r"token|passw|pwd|secret|api[-_]?key|jwt|^(?:auth|pass|sid|sig)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"^eyJ[A-Za-z0-9_-]+\.")
_AT = re.compile(r"%(?:25)*40")
_DOT = re.compile(r"%(?:25)*2e", re.IGNORECASE)
_EMAIL = re.compile(r"[^@/]@[^@/]+\.[^@/]")


@remembered(4_096)
def cleaned(url: str) -> str:
    """Without user name, fragment, our own tokens, and parameters that look like an email address, a password or a token."""
    if "?" not in url and "#" not in url and "@" not in url:
        return url
    match = _PARTS.fullmatch(url)
    if match is None:
        return url
    scheme, authority, path, query = match.groups()
    kept = [part for part in (query or "").split("&") if part and not _tells_too_much(part)]
    return scheme + authority.rpartition("@")[2] + path + ("?" + "&".join(kept) if kept else "")


def reduced(url: str) -> str:
    """After a no: the path and `utm_*`, and no part of the path that looks like an email address."""
    match = _PARTS.fullmatch(cleaned(url))
    if match is None:
        return url
    scheme, authority, path, query = match.groups()
    steps = ["-" if looks_like_email(step) else step for step in path.split("/")]
    kept = [part for part in (query or "").split("&") if part.lower().startswith("utm_")]
    return scheme + authority + "/".join(steps) + ("?" + "&".join(kept) if kept else "")


def origin(url: str) -> str | None:
    """Scheme and host with its port, or None."""
    match = _PARTS.fullmatch(url)
    return match[1] + match[2].rpartition("@")[2] + "/" if match and match[2] else None


def host(url: object) -> str | None:
    """The host of an http(s) address in lower case; None for anything of which browsers and we might read another host."""
    if not isinstance(url, str) or len(url) > normalise.MAX_URL_BYTES:  # `urlsplit` would remember it
        return None
    plain = _PLAIN_HOST.fullmatch(url)
    return plain[1] if plain else unusual_host(url)


def unusual_host(url: str) -> str | None:
    """The same for an address that does not look plain (a port, a user, upper case), and for any other, but slower."""
    if "\\" in url or not _PARTS.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.port is None or parts.port else None
    except ValueError:
        return None


def looks_like_email(text: str) -> bool:
    if "@" not in text and "%" not in text:
        return False
    return _EMAIL.search(_DOT.sub(".", _AT.sub("@", text))) is not None


def _tells_too_much(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return bool(name in OUR_TOKENS or _SECRET_NAME.search(name) or _SECRET_VALUE.search(value)) or looks_like_email(parameter)
