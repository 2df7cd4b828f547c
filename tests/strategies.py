"""Hypothesis strategies: sets of events that collide on purpose, deliveries of a set, any JSON, any valid event, any line.

The colliding sets are for properties of sessions and identity ("a function of the set of events"): few cookies, few
addresses, few times (many of them equal, or a millisecond around the session gap), redelivered, less complete and
conflicting copies. Everything in them is valid input: it survives `builders.line` and `parse_line`.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import orjson
from hypothesis import strategies as st

from pipeline.core.canonical import normal_text
from pipeline.core.events import (
    TYPES,
    WITHOUT_COOKIE,
    ContactImport,
    ContactMerge,
    EmailClick,
    Event,
    FormSubmission,
    Identify,
    PageView,
    Retraction,
)
from tests import builders
from tests.builders import MINUTE, START

T = TypeVar("T")

KINDS = tuple(TYPES)

SOURCES = (
    "",
    "?utm_source=news&utm_medium=email",
    "?utm_campaign=spring",
    "?gclid=1",
    "?fbclid=2&gclid=",
    "?utm_source=&gclid=3",
)

times = st.builds(
    lambda quarter, beside: START + quarter * 15 * MINUTE + beside,
    st.integers(0, 12),
    st.sampled_from((0, 0, 0, -1, 1, 1_000)),
)
"""Few times, often equal, and often exactly 30 minutes, or one millisecond more or less, apart."""

property_sets = st.sampled_from((None, None, {"plan": "pro"}, {"plan": "free", "seats": 3}))
networks = st.sampled_from((None, "192.0.2.0", "198.51.100.0"))
agents = st.sampled_from((None, "Mozilla/5.0", "curl/8"))


def cookies(count: int) -> st.SearchStrategy[str]:
    """Names of `count` cookies."""
    return st.sampled_from([f"cookie-{number}" for number in range(count)])


def addresses(count: int) -> st.SearchStrategy[str]:
    """`count` normalised addresses."""
    return st.sampled_from([f"{letter}@x.io" for letter in "abcdefghijklmnopqrstuvwxyz"[:count]])


def colliding_event(  # noqa: PLR0911 - one branch a type of event
    kind: str, *, portals: int = 1, cookie_count: int = 3, email_count: int = 3
) -> st.SearchStrategy[Event]:
    """One event of this kind on few cookies and addresses; its id is one of few, so ids collide across kinds too."""
    utk = cookies(cookie_count)
    no_utk = st.one_of(utk, utk, utk, st.none())
    email = addresses(email_count)
    number = st.integers(1, 1_000)
    common: dict[str, st.SearchStrategy[Any]] = {
        "at": times,
        "portal": st.integers(1, portals),
        "received_at": st.none() | times,
    }
    sends = st.sampled_from(("send-1", "send-2"))
    external_ids = st.sampled_from((None, "crm-1", "crm-2"))
    url = st.builds("https://{}/{}{}".format, st.sampled_from(("x.io", "shop.x.io")), st.integers(0, 2), st.sampled_from(SOURCES))
    referrer = st.sampled_from((None, None, "https://x.io/0", "https://Search.example:443/?q=1"))
    network: dict[str, st.SearchStrategy[Any]] = {"ip": networks, "user_agent": agents}
    if kind == "page_view":
        restarted = st.sampled_from((False, False, False, True))
        return st.builds(
            builders.page_view,
            number,
            **common,
            **network,
            utk=no_utk,
            url=url,
            referrer=referrer,
            new_browser_session=restarted,
            properties=property_sets,
        )
    if kind == "email_click":
        bot = st.sampled_from((False, False, False, True))
        return st.builds(
            builders.email_click, number, **common, **network, utk=no_utk, recipient_email=email, send_id=sends, url=url, bot=bot
        )
    if kind == "form_submission":
        return st.builds(
            builders.form_submission,
            number,
            **common,
            **network,
            utk=no_utk,
            email=st.none() | email,
            page_url=st.none() | url,
            fields=st.sampled_from((None, {"firstname": "Ada"}, {"firstname": "Ada", "company": "X"})),
            create_new_contact=st.sampled_from((False, False, True)),
            use_cookie=st.sampled_from((True, True, True, False)),
        )
    if kind == "identify":
        known_as = st.tuples(st.none() | email, external_ids).filter(any)
        return st.builds(
            lambda number, who, **rest: builders.identify(number, email=who[0], external_id=who[1], **rest),
            number,
            known_as,
            **common,
            utk=utk,
        )
    if kind == "custom_event":
        return st.builds(builders.custom_event, number, **common, utk=no_utk, properties=property_sets)
    if kind == "retraction":
        return st.builds(builders.retraction, number, **common, retracts=number, properties=property_sets)
    if kind == "contact_merge":
        return st.builds(builders.contact_merge, number, **common, primary=email, secondary=email, properties=property_sets)
    return st.builds(builders.contact_import, number, **common, email=email, external_id=external_ids, properties=property_sets)


@st.composite
def copy_of(draw: st.DrawFn, event: Event) -> Event:
    """A further copy of this event id: the same, resent at another time, less complete, or conflicting."""
    change = draw(st.sampled_from(("same", "resent", "resent", "less complete", "less complete", "conflicting")))
    if change == "resent":
        event = msgspec.structs.replace(event, occurred_at=draw(times), received_at=draw(st.none() | times))
    if change == "less complete":
        return _less_complete(draw, event)
    if change == "conflicting":
        return _conflicting(draw, event)
    return event


def _less_complete(draw: st.DrawFn, event: Event) -> Event:
    """The event without some of the fields that it need not have."""
    needed = {"utk"} if isinstance(event, Identify | ContactImport) else set()
    if isinstance(event, Identify):
        needed.add("email" if event.email is not None else "external_id")
    optional = [name for name in _optional_fields(type(event)) if name not in needed and getattr(event, name) is not None]
    gone = draw(st.sets(st.sampled_from(optional))) if optional else set()
    return msgspec.structs.replace(event, **dict.fromkeys(gone))


def _conflicting(draw: st.DrawFn, event: Event) -> Event:
    """The event with another cookie, another address or other contents, or an event of another kind with its id."""
    changes: dict[str, Any] = {}
    if type(event) not in WITHOUT_COOKIE:
        changes["utk"] = builders.utk(draw(cookies(3)))
    if isinstance(event, PageView | EmailClick):
        changes["url"] = draw(st.sampled_from((event.url, "https://x.io/another")))
    if isinstance(event, FormSubmission | Identify | ContactImport):
        changes["email"] = draw(addresses(3))
    if isinstance(event, ContactMerge):
        changes["secondary"] = draw(addresses(3))
    if isinstance(event, Retraction):
        changes["retracts"] = draw(st.sampled_from((event.retracts, event.event_id)))
    if draw(st.integers(0, 7)) == 0:
        other = draw(colliding_event(draw(st.sampled_from(KINDS))))
        return msgspec.structs.replace(other, event_id=event.event_id, portal_id=event.portal_id)
    return msgspec.structs.replace(event, **changes)


def _optional_fields(kind: type[Event]) -> tuple[str, ...]:
    """The fields of a kind that can be None."""
    return tuple(field.name for field in msgspec.structs.fields(kind) if "None" in str(field.type))


@st.composite
def colliding_events(
    draw: st.DrawFn,
    *,
    kinds: Sequence[str] = KINDS,
    portals: int = 1,
    cookie_count: int = 3,
    email_count: int = 3,
    min_size: int = 0,
    max_size: int = 20,
    copies: bool = True,
) -> list[Event]:
    """A list of events, in no order, on few cookies and addresses; with `copies`, some ids have several copies.

    Without `copies` every (portal, event id) is there once.
    """
    one = st.sampled_from(kinds).flatmap(
        lambda kind: colliding_event(kind, portals=portals, cookie_count=cookie_count, email_count=email_count)
    )
    events = draw(st.lists(one, min_size=min_size, max_size=max_size, unique_by=lambda event: (event.portal_id, event.event_id)))
    events = [_aimed(draw, event, events) for event in events]
    if copies and events:
        originals = draw(st.lists(st.sampled_from(events), max_size=max(2, len(events) // 2)))
        events = events + [draw(copy_of(event)) for event in originals]
    return events


MERGED = ("form_submission", "form_submission", "identify", "contact_merge", "contact_merge", "retraction")
RETRACTED = ("page_view", "page_view", "custom_event", "form_submission", "retraction", "retraction", "retraction")


def undone_events(*, portals: int = 1, max_size: int = 20, copies: bool = True) -> st.SearchStrategy[list[Event]]:
    """Any colliding events, or such of which many are merged or retracted, on two cookies and three addresses."""
    return st.one_of(
        colliding_events(portals=portals, max_size=max_size, copies=copies),
        colliding_events(kinds=MERGED, portals=portals, cookie_count=2, min_size=3, max_size=max_size, copies=copies),
        colliding_events(kinds=RETRACTED, portals=portals, cookie_count=1, min_size=3, max_size=max_size, copies=copies),
    )


def _aimed(draw: st.DrawFn, event: Event, events: Sequence[Event]) -> Event:
    """A retraction of one of these events, perhaps of itself or of another retraction; anything else as it is."""
    if not isinstance(event, Retraction):
        return event
    return msgspec.structs.replace(event, retracts=draw(st.sampled_from(events)).event_id)


@st.composite
def deliveries(draw: st.DrawFn, items: Sequence[T], *, duplicates: bool = True) -> list[list[T]]:
    """The items as batches in any order, each item at least once; with `duplicates`, some twice; batches may be empty."""
    again = draw(st.lists(st.sampled_from(items), max_size=5)) if duplicates and items else []
    order = draw(st.permutations([*items, *again]))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=6)))
    return [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]


def _containers(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(values, max_size=4) | st.dictionaries(names, values, max_size=4)


names = st.text(max_size=6) | st.sampled_from(("a", "b", "\u00e9", "\ue000", "\U0001f600", "__proto__"))
"""Names in JSON objects, some of which RFC 8785 (UTF-16) and code points sort differently."""
integers = st.integers(-(2**63), 2**64 - 1) | st.sampled_from((0, 2**53 - 1, 2**53, 2**53 + 1, -(2**53), 2**63, 2**64 - 1, -(2**63)))
"""Integers within 64 bits."""
doubles = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from((-0.0, 1.0, 1e18, 1e19, 2.0**64, 1e21, 1e-7, 5e-324))
json_values = st.recursive(st.none() | st.booleans() | integers | doubles | st.text(max_size=20), _containers, max_leaves=5)
"""Any JSON value that a line may contain."""
json_objects = st.dictionaries(names, json_values, min_size=1, max_size=5)

texts = st.text(min_size=1, max_size=30)
valid_times = st.integers(631_152_000_000, 4_102_444_799_999)
valid_utks = st.integers(0, 2**128 - 1).map("{:032x}".format)
valid_emails = st.sampled_from(("a@x.io", "a.b+x@gmail.com", "j\u00f6rg@xn--mnchen-3ya.de", "\u5f20@example.co.uk", "!#$%@1.2"))
valid_urls = st.sampled_from(
    (
        "https://example.com/",
        "http://x",
        "HTTPS://Example.com:8443/a?b=c#d",
        "http://user:pw@[::1]:80/",
        "https://m\u00fcnchen.de/\u00fc?q=\U0001f600",
        "https://example.com/" + "a" * 8172,
    )
)


def valid_event(kind: str) -> st.SearchStrategy[Event]:
    """Any event of this kind, every field drawn by its type; a form has no name twice."""
    of_field: dict[str, st.SearchStrategy[Any]] = {
        "event_id": st.uuids().map(str),
        "portal_id": st.integers(1, 2**63 - 1),
        "occurred_at": valid_times,
        "received_at": st.none() | valid_times,
        "utk": st.none() if TYPES[kind] in WITHOUT_COOKIE else valid_utks if kind == "identify" else st.none() | valid_utks,
        "url": valid_urls,
        "referrer": st.none() | valid_urls,
        "page_url": st.none() | valid_urls,
        "recipient_email": valid_emails,
        "email": valid_emails if kind in ("identify", "contact_import") else st.none() | valid_emails,
        "retracts": st.uuids().map(str),
        "primary": valid_emails,
        "secondary": valid_emails,
        "properties": st.none() | json_objects.map(normal_text),
        "fields": st.none() | st.dictionaries(names, st.text(max_size=20), min_size=1, max_size=4).map(lambda each: tuple(each.items())),
        "send_id": texts,
        "form_id": texts,
        "name": texts,
    }
    return st.builds(
        TYPES[kind],
        *(
            of_field.get(field.name, st.booleans() if field.type is bool else st.none() | texts)
            for field in msgspec.structs.fields(TYPES[kind])
        ),
    )


valid_events = st.sampled_from(KINDS).flatmap(valid_event)


@st.composite
def wrong_lines(draw: st.DrawFn) -> bytes:
    """The line of a valid event, in which some fields are gone, new, or anything; or with bytes changed; perhaps with a name twice."""
    given = builders.as_object(draw(valid_events))
    some = st.sampled_from([*given, "type", "utk", "email", "fields", "properties", "extra", "portal_id"])
    surprises: st.SearchStrategy[Any] = st.sampled_from(
        (None, "", {}, [], 0, 1.0, True, " ", "{", "a@b", "2024-01-01T00:00:00Z", "http://", 2**53, [[]], {"a": {}})
    )
    changes = draw(st.dictionaries(some, json_values | surprises, max_size=3))
    first = orjson.dumps(given | changes)
    if draw(st.booleans()):
        first = first[:-1] + b"," + orjson.dumps(draw(st.dictionaries(some, json_values | surprises, min_size=1, max_size=2)))[1:]
    if draw(st.integers(0, 2)) == 0:
        at = draw(st.integers(0, len(first)))
        until = at + draw(st.integers(0, 3))
        first = (
            first[:at] + draw(st.binary(max_size=3) | st.sampled_from((b"1e999", b"NaN", b"18446744073709551616", b'"'))) + first[until:]
        )
    return first
