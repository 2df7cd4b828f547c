"""`replay diff --with FILE`: what events that are not published yet would change, under the policy of what readers see.

Of each portal that they concern all evidence is read from ClickHouse, and of every cookie whose activity or owner they may change
all events; then `resolve` says what these mean with and without the new ones. A new copy of a known event is merged with each of the
copies that are stored, not with what they say together: that would not be the same.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from clickhouse_driver import Client

from pipeline.adapters import clickhouse, event_rows
from pipeline.core.copies import merge
from pipeline.core.events import Event, EventId, PortalId, Retraction, Utk
from pipeline.core.outcomes import Refused
from pipeline.core.parsing import parse_line
from pipeline.core.policy import Policy
from pipeline.errors import UserError
from pipeline.explain import TOLD
from pipeline.lines import numbered_lines
from pipeline.policy_file import load_policy
from pipeline.replay import registry
from pipeline.replay.changes import Changes, between
from pipeline.resolve import Resolution, resolve_events
from pipeline.settings import Settings

Read = Callable[..., list[Event]]
"""`event_rows.events` or `event_rows.copies`."""

_VALUES_AT_ONCE = 2_000
"""So many fit into a query, whose text ClickHouse limits to 256 KiB."""


class WhatIf(msgspec.Struct, frozen=True):
    """`events` of the file, `refused` lines, and what would change in the generation that readers see."""

    generation: int
    events: int
    refused: int
    changes: Changes


def what_if(settings: Settings, path: Path) -> WhatIf:
    """UserError if the file cannot be read, or ClickHouse cannot be asked."""
    live = registry.live(settings)
    events, refused = _read(path)
    client = clickhouse.connect(live)
    policy = load_policy(live.policy_file)
    by_portal: dict[PortalId, list[Event]] = defaultdict(list)
    for event in events:
        by_portal[event.portal_id].append(event)
    pairs = [_resolutions(client, portal, new, policy) for portal, new in sorted(by_portal.items())]
    before, after = (_together([pair[side] for pair in pairs]) for side in (0, 1))
    return WhatIf(live.generation, len(events), refused, between(before, after))


def _read(path: Path) -> tuple[list[Event], int]:
    try:
        with path.open("rb") as file:
            parsed = [parse_line(line) for _, line in numbered_lines(file)]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the path of a file of JSON lines") from None
    events = [event for event in parsed if not isinstance(event, Refused)]
    return events, len(parsed) - len(events)


def _resolutions(client: Client, portal: PortalId, new: Sequence[Event], policy: Policy) -> tuple[Resolution, Resolution]:
    """What the portal's events mean without the new ones and with them, as far as it may differ."""
    known = {event.event_id: event for event in event_rows.events(client, portal, "type IN %(types)s", types=TOLD)}
    copies = [*_whose(client, portal, "event_id", {event.event_id for event in new}, event_rows.copies), *new]
    changed = _merged(copies)
    concerned = changed.keys() | _retracted_by(copies, known)
    _add(known, _whose(client, portal, "event_id", concerned))
    touched = {event.utk for event in (*copies, *(known[event_id] for event_id in concerned if event_id in known)) if event.utk}
    _add(known, _whose(client, portal, "utk", touched))
    before, after = (resolve_events(events.values(), policy) for events in (known, known | changed))
    rest = _whose(client, portal, "utk", _changed_links(before, after) - touched)
    if not rest:
        return before, after
    _add(known, rest)
    return resolve_events(known.values(), policy), resolve_events((known | changed).values(), policy)


def _retracted_by(copies: Iterable[Event], known: Mapping[EventId, Event]) -> set[EventId]:
    """What any of these copies retracts, and what that retracts in turn."""
    found: set[EventId] = set()
    ahead = [event.retracts for event in copies if isinstance(event, Retraction)]
    while ahead:
        event_id = ahead.pop()
        if event_id not in found:
            found.add(event_id)
            event = known.get(event_id)
            ahead += [event.retracts] if isinstance(event, Retraction) else []
    return found


def _changed_links(before: Resolution, after: Resolution) -> set[Utk]:
    """Cookies whose ownership differs."""
    links: tuple[dict[Utk, list[object]], dict[Utk, list[object]]] = (defaultdict(list), defaultdict(list))
    for side, resolution in zip(links, (before, after), strict=True):
        for link in resolution.links:
            side[link.utk].append(link)
    return {utk for utk in links[0].keys() | links[1].keys() if links[0].get(utk) != links[1].get(utk)}


def _whose(client: Client, portal: PortalId, field: str, values: Collection[str], read: Read = event_rows.events) -> list[Event]:
    """The portal's events, or their copies, whose field has one of these values."""
    asked = sorted(values)
    found: list[Event] = []
    for start in range(0, len(asked), _VALUES_AT_ONCE):
        some = tuple(asked[start : start + _VALUES_AT_ONCE])
        found += read(client, portal, f"{field} IN %(some)s", some=some)
    return found


def _add(known: dict[EventId, Event], events: Iterable[Event]) -> None:
    known.update((event.event_id, event) for event in events)


def _merged(copies: Iterable[Event]) -> dict[EventId, Event]:
    """What all copies of each event say together."""
    by_id: dict[EventId, list[Event]] = defaultdict(list)
    for copy in copies:
        by_id[copy.event_id].append(copy)
    return {event_id: merge(each).event for event_id, each in by_id.items()}


def _together(resolutions: Iterable[Resolution]) -> Resolution:
    whole = Resolution([], [], [], [], [])
    for resolution in resolutions:
        for name in ("contacts", "links", "sessions", "events"):
            getattr(whole, name).extend(getattr(resolution, name))
    return whole
