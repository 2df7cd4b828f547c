"""IP addresses: whose they are, and how much of one the log may have (spec: edge.md, "Consent")."""

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

_LONGEST = 64
"""Characters of an address; an IPv6 one may name an interface after a %."""


class IpPolicy(StrEnum):
    """What of the address a portal keeps."""

    SHORTENED = "shortened"
    FULL = "full"
    NONE = "none"


def address(text: object) -> IPv4Address | IPv6Address | None:
    """An address; an IPv4 one in IPv6 clothes is the IPv4 one."""
    try:
        found = ip_address(text) if isinstance(text, str) and len(text) <= _LONGEST else None
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


@lru_cache(maxsize=4_096)
def kept(text: str | None, policy: IpPolicy) -> str | None:
    """The part of an address that the log may have: without the last octet, or the first 48 bits."""
    found = address(text)
    if found is None or policy is IpPolicy.NONE:
        return None
    if policy is IpPolicy.FULL:
        return str(found)
    return str(ip_network((found, 24 if found.version == 4 else 48), strict=False).network_address)


def is_in(text: str | None, networks: Sequence[Network]) -> bool:
    if not networks:
        return False
    found = address(text)
    return found is not None and any(found in network for network in networks)


def client(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Who asked: the last address before our own proxies. `forwarded` are the hops of X-Forwarded-For, first one first."""
    hops = [*forwarded, peer]
    while len(hops) > 1 and is_in(hops[-1], trusted):
        hops.pop()
        if address(hops[-1]) is None:
            return peer
    return hops[-1]
