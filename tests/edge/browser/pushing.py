"""What the tests of the script's rules share: commands, the events they become, and the requests that the script makes."""

from typing import Any

from pipeline.core.events import CustomEvent
from tests.edge.browser.driving import Browser, World
from tests.waiting import until

REQUESTS = """window.asked = [];
const [get, beacon] = [fetch, navigator.sendBeacon.bind(navigator)];
window.fetch = (url, options) => { asked.push([url, options.body, !!options.keepalive]); return get(url, options); };
navigator.sendBeacon = (url, body) => { asked.push([url, 'beacon']); return beacon(url, body); };"""
"""Notes every request of the script."""


def push(page: Browser, *commands: Any) -> None:
    page.execute_script("_hsq.push(...arguments)", *commands)


def custom(world: World, name: str, count: int = 1) -> list[CustomEvent]:
    """As soon as there are so many of this visit's custom events."""
    name = f"{name} {world.visit}"

    def mine() -> list[CustomEvent]:
        return [event for event in world.events() if isinstance(event, CustomEvent) and event.name == name]

    until(lambda: len(mine()) >= count, f"{count} of {name}")
    assert len(mine()) == count
    return mine()


def event(world: World, name: str, **properties: Any) -> list[Any]:
    return ["trackCustomBehavioralEvent", {"name": f"{name} {world.visit}", "properties": properties}]


def offline(page: Browser, value: bool) -> None:
    page.execute_cdp_cmd("Network.enable", {})
    page.execute_cdp_cmd(
        "Network.emulateNetworkConditions", {"offline": value, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    )
