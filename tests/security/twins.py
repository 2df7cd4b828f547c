"""The same history in two portals: equal event ids, cookies, addresses and external ids, and yet two histories.

Portal 2 misses every third event, and what its events say differs; so whatever crossed over would change who owns what, or show itself.
"""

from typing import Any

import orjson

from tests.end_to_end.collisions import collisions

CANARY_ADDRESS = "canary-person@secret.example"
"""In both portals, where addresses are."""
MARKS = {1: "of-the-first-portal", 2: "of-the-second-portal"}
"""In everything that each portal's events say freely."""


def twins(count: int, seed: int) -> dict[int, list[bytes]]:
    """JSON lines by portal."""
    events = [orjson.loads(line) for line in collisions(count, seed)]
    return {
        1: [_in(1, event) for event in events],
        2: [_in(2, event) for number, event in enumerate(events) if number % 3],
    }


def _in(portal: int, event: dict[str, Any]) -> bytes:
    mark = MARKS[portal]
    said = {"portal_id": portal, "title": mark, "plan": mark} | ({"url": f"https://www.example.com/{mark}"} if "url" in event else {})
    if str(event.get("email", "")).startswith("Person1"):
        said["email"] = CANARY_ADDRESS
    return orjson.dumps(event | said)
