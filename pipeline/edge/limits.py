"""How much one portal, and one address, may ask of one process in a minute (spec: edge.md, "limited (429)")."""

from ipaddress import ip_network

from pipeline.edge.core.addresses import address
from pipeline.edge.core.portal import Portal

WINDOW_S = 60.0
MOST_ADDRESSES = 100_000
"""Beyond so many in a minute an address that is new is not counted, so that memory is bounded."""


class Limits:
    """Counts since the window began; the next window begins at nothing."""

    def __init__(self) -> None:
        self._began = float("-inf")
        self._counts: dict[tuple[int, str], int] = {}

    def retry_after(self, portal: Portal, ip: str, now_s: float) -> int:
        """0 if the request may go on, else in how many seconds to ask again. `now_s` is any clock that does not go back."""
        if now_s - self._began >= WINDOW_S:
            self._began, self._counts = now_s, {}
        allowed = self._count(portal.id, _who(ip), portal.requests_per_minute_and_ip)
        allowed = allowed and self._count(portal.id, "", portal.requests_per_minute)  # what one is refused is not taken from all
        return 0 if allowed else max(1, round(self._began + WINDOW_S - now_s))

    def _count(self, portal: int, who: str, limit: int) -> bool:
        key = (portal, who)
        count = self._counts.get(key, 0) + 1
        if count == 1 and len(self._counts) >= MOST_ADDRESSES:
            return True
        self._counts[key] = count
        return count <= limit


def _who(ip: str) -> str:
    """An IPv6 customer has a whole /64, so that is who asks."""
    if ":" not in ip:
        return ip
    found = address(ip)
    return str(ip_network((found, 64), strict=False)) if found is not None and found.version == 6 else ip
