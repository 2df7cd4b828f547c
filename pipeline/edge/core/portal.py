"""A portal as the collector knows it (spec: edge.md, "Portals"), valid if it exists; `pipeline.edge.portals` reads it from the file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from pipeline.core.events import PortalId
from pipeline.edge.core.addresses import IpPolicy, Network
from pipeline.edge.core.consent import Mode
from pipeline.edge.core.cookies import is_within
from pipeline.edge.core.urls import host, origin


class IdentifyMode(StrEnum):
    OPEN = "open"
    SIGNED = "signed"


class BindOn(StrEnum):
    """What a page must have seen before a click's cookie counts."""

    TOUCH = "touch"
    VISIBLE = "visible"


@dataclass(frozen=True, slots=True)
class Form:
    """What a portal asks of one of its forms."""

    required: tuple[str, ...] = ()
    thank_you: str | None = None
    processing_consent: bool = False


@dataclass(frozen=True, slots=True)
class Portal:
    id: PortalId
    domains: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    """Origins of its collectors, tried in order; none: where the script came from."""
    mode: Mode = Mode.OPT_IN
    consent_version: str = "1"
    texts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Of the banner, by language."""
    banner: bool = True
    honour_gpc: bool = True
    honour_dnt: bool = True
    ip: IpPolicy = IpPolicy.SHORTENED
    exclude_ips: tuple[Network, ...] = ()
    identify: IdentifyMode = IdentifyMode.OPEN
    bind_on: BindOn = BindOn.TOUCH
    all_forms: bool = False
    forms: Mapping[str, Form] = field(default_factory=dict)
    thank_you: str | None = None
    requests_per_minute: int = 60_000
    requests_per_minute_and_ip: int = 600
    keys: tuple[bytes, ...] = field(default=(), repr=False)
    """Of sealed tokens; the newest first."""
    server_key: bytes | None = field(default=None, repr=False)
    """What the site's own servers show us and sign with."""

    def has(self, url: object) -> bool:
        """Whether an address is on one of the portal's domains."""
        name = host(url)
        return name is not None and len(name) <= _LONGEST_NAME and _is_on(name, self.domains)

    def has_origin(self, text: str) -> bool:
        """Whether an Origin header is of one of the portal's domains, and nothing but an origin."""
        return len(text) <= _LONGEST_ORIGIN and _is_origin_on(text, self.domains)

    def form(self, form_id: str) -> Form:
        return self.forms.get(form_id, Form())


_LONGEST_NAME = 253
"""Characters of a host's name (RFC 1035)."""
_LONGEST_ORIGIN = len("https://:65535") + _LONGEST_NAME


# The same few pages and origins come again and again; they are short, or were refused.
@lru_cache(maxsize=4_096)
def _is_on(name: str, domains: tuple[str, ...]) -> bool:
    return any(is_within(name, domain) for domain in domains)


@lru_cache(maxsize=4_096)
def _is_origin_on(text: str, domains: tuple[str, ...]) -> bool:
    name = host(text)
    return name is not None and len(name) <= _LONGEST_NAME and _is_on(name, domains) and origin(text) == text + "/"
