"""What a request's headers tell, of the request and of whoever sent it."""

import time
from collections.abc import Iterable, Sequence

from pipeline.core.events import Millis
from pipeline.edge import bots
from pipeline.edge.core import addresses
from pipeline.edge.core.addresses import Network
from pipeline.edge.core.hits import Request


class Told:
    """What the headers say, by their names in lower case; of several with one name the first."""

    __slots__ = ("_headers", "_values")

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._headers = headers
        self._values: dict[bytes, bytes] = dict(reversed(headers))

    def get(self, name: bytes) -> str | None:
        value = self._values.get(name)
        return None if value is None else value.decode("latin-1")

    def text(self, name: bytes) -> str:
        """The same; empty if there is none."""
        return self._values.get(name, b"").decode("latin-1")

    def all(self, name: bytes) -> Iterable[str]:
        """Of all headers with this name."""
        return (value.decode("latin-1") for each, value in self._headers if each == name)


def address(told: Told, peer: str, trusted: Sequence[Network]) -> str:
    """Who asked: `peer`, or whom our own proxies name."""
    if not trusted:
        return peer
    hops = [hop.strip() for hop in ",".join(told.all(b"x-forwarded-for")).split(",") if hop.strip()]
    return addresses.client(peer, hops, trusted)


def about(told: Told, ip: str) -> Request:
    """What we know of the sender at this moment."""
    user_agent = told.text(b"user-agent")[: bots.LONGEST] or None
    now = Millis(time.time_ns() // 1_000_000)
    return Request(now, ip, user_agent, told.get(b"sec-gpc") == "1", told.get(b"dnt") == "1", bots.why(user_agent))
