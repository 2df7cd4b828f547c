"""Events that get into each other's way on purpose: few cookies, few addresses, late, repeated, incomplete, conflicting, retracted."""

import random
from collections.abc import Iterator
from typing import Any

import orjson

from tests.builders import DAY, MINUTE, START, event_id, utk

COOKIES, ADDRESSES, PORTALS = 120, 60, 3


def collisions(count: int, seed: int, first: int = 0) -> list[bytes]:
    """`count` JSON lines: 90% events, 5% repeated as they are, the rest less complete, resent and conflicting copies.

    The events are numbered from `first` on, and the number is in their ids.
    """
    rng = random.Random(seed)
    events: list[dict[str, Any]] = []
    for number in range(first, first + count * 9 // 10):
        events.append(_retraction(rng, number, events) if events and rng.random() < 0.04 else _event(rng, number))
    copies = [_copy(rng, rng.choice(events), share) for share in _shares(count - len(events))]
    return [orjson.dumps(event) for event in (*events, *copies)]


def _shares(count: int) -> Iterator[str]:
    for number in range(count):
        yield "same" if number % 2 else ("less complete", "resent", "conflicting", "another cookie", "another kind")[number // 2 % 5]


def _retraction(rng: random.Random, number: int, events: list[dict[str, Any]]) -> dict[str, Any]:
    """Of any event, before or after it; often of a retraction, often of one that is retracted already."""
    undone = [event for event in events[-200:] if event["type"] == "retraction"]
    target = rng.choice(undone) if undone and rng.random() < 0.4 else rng.choice(events)
    if rng.random() < 0.1:
        target = {**target, "event_id": target.get("retracts", target["event_id"])}
    at = target["occurred_at"] + rng.choice((-1, 0, 1, rng.randrange(-DAY, 3 * DAY)))
    said = {"type": "retraction", "event_id": event_id(number), "portal_id": target["portal_id"], "occurred_at": at}
    return {**said, "retracts": target["event_id"], "received_at": at}


def _event(rng: random.Random, number: int) -> dict[str, Any]:  # noqa: C901, PLR0912 - one branch a type of event
    """One event; half of them at full minutes, so that times are often equal and pauses often exactly the gap."""
    at = START + rng.randrange(3 * DAY)
    if rng.random() < 0.5:
        at -= at % MINUTE
    cookie = utk(f"cookie-{int(COOKIES * rng.random() ** 2)}")
    address = f"Person{_often_the_same(rng)}@Example.com"
    event: dict[str, Any] = {
        "event_id": event_id(number),
        "portal_id": rng.randint(1, PORTALS),
        "occurred_at": at,
        "received_at": at + rng.randrange(1000),
    }
    if rng.random() < 0.95:
        event["utk"] = cookie
    kinds = ("page_view", "form_submission", "email_click", "identify", "custom_event", "contact_import", "contact_merge")
    (kind,) = rng.choices(kinds, (66, 8, 8, 5, 5, 4, 4))
    event["type"] = kind
    match kind:
        case "page_view":
            event["url"] = f"https://www.example.com/{rng.randrange(20)}" + rng.choice(("", "", "", "?utm_source=news", "?gclid=1"))
            if rng.random() < 0.3:
                event["referrer"] = rng.choice(("https://search.example/", "https://www.example.com/"))
            if rng.random() < 0.1:
                event["new_browser_session"] = True
            event |= {"title": f"Page {rng.randrange(5)}", "ip": "192.0.2.0", "plan": rng.choice(("pro", "free"))}
        case "form_submission":
            event |= {"form_id": "newsletter", "fields": {"firstname": "Ada", "note": "first"}}
            if rng.random() < 0.8:
                event["email"] = address
            if rng.random() < 0.1:
                event["create_new_contact"] = True
            if rng.random() < 0.1:
                event["use_cookie"] = False
        case "email_click":
            event |= {"recipient_email": address, "send_id": f"send-{rng.randrange(3)}", "url": "https://www.example.com/offer"}
            if rng.random() < 0.2:
                event["bot"] = True
        case "identify":
            event["utk"] = cookie
            event |= {"email": address} if rng.random() < 0.6 else {"external_id": f"crm-{rng.randrange(ADDRESSES)}"}
        case "custom_event":
            event |= {"name": "added_to_cart", "properties": {"sku": "1", "price": 9.5}}
        case "contact_merge":
            event |= {"primary": address, "secondary": f"person{_often_the_same(rng)}@example.com"}
        case _:
            event |= {"email": address, "external_id": f"crm-{rng.randrange(ADDRESSES)}"}
    return event


def _often_the_same(rng: random.Random) -> int:
    """Number of an address: so that merges mostly know both of theirs."""
    return int(ADDRESSES * rng.random() ** 2)


def _copy(rng: random.Random, event: dict[str, Any], kind: str) -> dict[str, Any]:
    copy = dict(event)
    match kind:
        case "less complete":
            for name in ("received_at", "title", "referrer", "plan", "fields"):
                copy.pop(name, None)
            if event["type"] not in ("identify", "contact_import") and rng.random() < 0.5:
                copy.pop("utk", None)
        case "resent":
            copy |= {"occurred_at": event["occurred_at"] + rng.randrange(-MINUTE, MINUTE), "ip": "198.51.100.0"}
        case "conflicting":
            copy |= {"title": "another", "properties": {"another": True}}
        case "another cookie":
            copy["utk"] = utk(f"cookie-{rng.randrange(COOKIES)}")
        case "another kind":
            copy |= {"type": "custom_event", "name": "not what it was"}
    return copy
