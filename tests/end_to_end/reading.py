"""What a reader of the views sees, in the shape of `resolve`'s output."""

from typing import Any

import msgspec

from pipeline.adapters import clickhouse
from pipeline.resolve import ContactRow, EventRow, LinkRow, RejectedRow, Resolution, SessionRow
from pipeline.settings import Settings

QUERIES: dict[str, tuple[type[msgspec.Struct], str]] = {
    "contacts": (ContactRow, "contacts ORDER BY portal_id, created_at, toString(contact_id)"),
    "links": (LinkRow, "links ORDER BY portal_id, utk, valid_from ASC NULLS FIRST"),
    "sessions": (SessionRow, "sessions ORDER BY portal_id, utk, number"),
    "events": (EventRow, "event_owners ORDER BY portal_id, occurred_at, toString(event_id)"),
}


def resolution_in_clickhouse(settings: Settings) -> Resolution:
    """All of the views; `rejected` are the conflicting copies among the failed events."""
    client = clickhouse.connect(settings)
    rows: dict[str, list[Any]] = {}
    for name, (kind, source) in QUERIES.items():
        columns = ", ".join(_expression(kind, column) for column in kind.__struct_fields__)
        rows[name] = [kind(*row) for row in client.execute(f"SELECT {columns} FROM {source}")]
    details = client.execute("SELECT reason, detail FROM failed_events WHERE reason = 'conflicting_duplicate'")
    return Resolution(**rows, rejected=[RejectedRow(0, reason, detail) for reason, detail in details])


def _expression(kind: type[msgspec.Struct], column: str) -> str:
    """The column as JSON would have it: times in milliseconds, ids as text."""
    if column in ("occurred_at", "started_at", "ended_at", "previous_started_at", "created_at", "valid_from", "valid_to"):
        return f"toUnixTimestamp64Milli({column})"
    if column in ("contact_id", "temporary_contact_id", "session_id", "event_id", "evidence", "created_by", "merged_into"):
        return f"toString({column})"
    if column in ("status", "type", "rule"):
        return f"toString({column})"
    return column
