"""How long a form takes to give its visitor's history to the contact, as an analyst sees it."""

import time
from collections.abc import Iterable
from typing import Any

import orjson

from pipeline.core.policy import Policy
from pipeline.errors import UserError
from pipeline.resolve import EventRow, Resolution, resolve_lines

Owners = dict[str, tuple[str | None, str | None, int | None]]
"""Event id -> contact, possible contact, session number."""

PATIENCE_S = 30.0
_PAUSE_S = 0.01
_QUERY = (
    "SELECT event_id, contact_id, temporary_contact_id, session_number FROM event_owners WHERE portal_id = %(portal)s AND utk = %(utk)s"
)


def resolved(events: Iterable[dict[str, Any]]) -> Resolution:
    """What the events mean, by definition."""
    return resolve_lines(enumerate(map(orjson.dumps, events), start=1), Policy())


def owners(rows: Iterable[EventRow], utk: str) -> Owners:
    """Whose the events of a cookie are."""
    return {row.event_id: (row.contact_id, row.temporary_contact_id, row.session_number) for row in rows if row.utk == utk}


def shown(client: Any, portal: int, utk: str) -> Owners:
    """The same, as ClickHouse shows it to an analyst now."""
    rows = client.execute(_QUERY, {"portal": portal, "utk": utk})
    return {str(event_id): (_text(contact), _text(possible), number) for event_id, contact, possible, number in rows}


def wait_until_shown(client: Any, form: dict[str, Any], expected: Owners) -> None:
    """Returns when ClickHouse shows what is expected of the form's cookie. UserError after `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while shown(client, form["portal_id"], form["utk"]) != expected:
        if time.monotonic() > deadline:
            raise UserError(f"form {form['event_id']} was not visible after {PATIENCE_S:g} s: see run.log, what the parts say")
        time.sleep(_PAUSE_S)


AllOwners = set[tuple[int, str, str | None, str | None, int | None, str]]
"""Portal, event, contact, possible contact, session number, rule."""


def all_owners(rows: Iterable[EventRow]) -> AllOwners:
    """Whose every event is."""
    return {(row.portal_id, row.event_id, row.contact_id, row.temporary_contact_id, row.session_number, row.rule) for row in rows}


def all_shown(client: Any) -> AllOwners:
    """The same, as ClickHouse shows it now."""
    rows = client.execute("SELECT portal_id, event_id, contact_id, temporary_contact_id, session_number, rule FROM event_owners")
    return {(portal, str(event), _text(contact), _text(possible), number, rule) for portal, event, contact, possible, number, rule in rows}


def _text(value: object) -> str | None:
    return None if value is None else str(value)
