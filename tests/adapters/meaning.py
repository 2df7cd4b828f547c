"""What `resolve` computes, as the records that the workers would write to the derived topics, put into ClickHouse."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import msgspec
from clickhouse_driver import Client

from pipeline.adapters import derived_rows
from pipeline.adapters.avro import Registry
from pipeline.core.identity_rules import BY_COOKIE
from pipeline.resolve import EventRow, Resolution

NO_MERGES = """
ALTER TABLE event_rows MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1
"""
"""Rows of one key stay beside each other, for tests of who reads them."""
EVIDENCE = ("form_submission", "email_click", "identify", "contact_import", "contact_merge")


def write_meaning(client: Client, registry: Registry, resolution: Resolution) -> None:
    """All derived rows of the resolution."""
    links = [msgspec.structs.asdict(link) for link in resolution.links]
    contacts = [msgspec.structs.asdict(contact) for contact in resolution.contacts]
    write(client, registry, "sessions", sessions(resolution))
    write(client, registry, "contacts", contacts)
    write(client, registry, "identity-links", links)
    write(client, registry, "evidence-owners", [owner(event) for event in resolution.events if event.type in EVIDENCE])


def write(client: Client, registry: Registry, topic: str, records: list[dict[str, Any]], first_offset: int = 0) -> None:
    """The records, as if they stood in the topic from `first_offset` on."""
    name = {"sessions": "session", "contacts": "contact", "identity-links": "identity_link", "evidence-owners": "evidence_owner"}[topic]
    keys = [key_of(topic, record) for record in records]
    values = [registry.encode(name, record) for record in records]
    offsets = list(range(first_offset, first_offset + len(records)))
    derived_rows.insert(client, topic, keys, values, offsets, registry.decode_columns)


def key_of(topic: str, record: Mapping[str, Any]) -> bytes:
    """The key that the record has in its topic."""
    return "|".join(str(record[name]) for name in derived_rows.TABLES[topic].key).encode()


def sessions(resolution: Resolution) -> list[dict[str, Any]]:
    """The sessions with their first and last events, which the spec's rows leave out."""
    in_sessions = sorted((event for event in resolution.events if event.session_id), key=lambda event: event.session_id or "")
    events = {session_id: list(members) for session_id, members in groupby(in_sessions, key=lambda event: event.session_id)}
    records = []
    for session in resolution.sessions:
        members = events[session.session_id]
        ends = {"first_event_id": members[0].event_id, "last_event_id": members[-1].event_id}
        records.append(msgspec.structs.asdict(session) | ends)
    return records


def owner(event: EventRow) -> dict[str, Any]:
    """What the evidence resolved to by itself, before it may have fallen back on its cookie."""
    by_cookie = event.rule in BY_COOKIE and (event.evidence is not None or event.contact_id is None)
    contact_id = None if by_cookie else event.contact_id
    return {"portal_id": event.portal_id, "event_id": event.event_id, "contact_id": contact_id, "rule": event.rule, "by_cookie": by_cookie}
