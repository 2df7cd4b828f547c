"""What somebody else writes into the topics: no events, events twice, events late."""

from collections.abc import Callable

from pipeline.adapters.avro import Registry
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.core.events import Event
from pipeline.status import status
from tests.builders import DAY, HOUR, START, contact_import, contact_merge, custom_event, form_submission, page_view
from tests.faults.system import System
from tests.waiting import until

Fault = Callable[[System], None]


def poison(system: System) -> None:
    """Bytes that are no events between those that are, and a good one without a key."""
    registry = Registry(system.settings)
    number = 900_000 + system.rng.randrange(90_000)
    view = registry.encode_event(page_view(number, at=START, title="Truncated", properties={"plan": "pro"}))
    form = registry.encode_event(form_submission(number + 1, at=START, fields=[("a", "b")]))
    imported, merged = registry.encode_event(contact_import(number + 3)), registry.encode_event(contact_merge(number + 4))
    bomb = form.replace(b"\x02\x02\x02a\x02b\x00", b"\x02\xfe\xff\xff\xff\x0f")
    assert bomb != form
    for topic, key, reason, values in (
        ("page-views", b"k", "malformed_avro", [view[:size] for size in range(1, len(view))]),
        ("page-views", None, None, [system.rng.randbytes(size) for size in range(20, 60)]),
        ("page-views", b"k", "malformed_avro", [None, b"\x01" + view[1:], view + b"\x00", under(view, form)]),
        ("page-views", b"k", "unknown_schema", [b"\x00\x00\x00\x03\xe6" + view[5:]]),
        ("form-submissions", b"k", "malformed_avro", [bomb, under(form, view)]),
        ("form-submissions", b"k", "unknown_type", [view]),
        ("contact-merges", b"k", "missing_field", [under(merged, imported)]),  # the address of the one is the primary of the other
    ):
        system.produce(topic, key, values)
        system.poison |= {(topic, (value or b"").hex().upper()): reason for value in values}
    keyless = custom_event(number + 2, at=START)
    system.produce(RAW_TOPICS["custom_event"], None, [registry.encode_event(keyless)])
    system.ledger.append(keyless)


def under(other: bytes, record: bytes) -> bytes:
    """The record's body under the schema id of the other."""
    return other[:5] + record[5:]


def duplicates(system: System) -> None:
    """What was published an hour ago is published again, in another order."""
    _produce(system, *system.rng.sample(system.ledger, min(len(system.ledger), 500)))


def late(system: System) -> None:
    """An hour and 25 hours late: in their sessions. 30 days, before what is forgotten: stored, shown, counted, and in no session."""
    cookie = f"late-{system.rng.randrange(1_000_000)}"
    number = 800_000 + system.rng.randrange(90_000)
    now = START + 40 * DAY
    for after, back in enumerate((30 * DAY, 0, HOUR, 25 * HOUR)):
        event = page_view(number + after, utk=cookie, at=now - back)
        _produce(system, event)
        system.ledger.append(event)
    system.settle()
    before = _late(system)
    event = page_view(number + 4, utk=cookie, at=now - 30 * DAY - HOUR)
    _produce(system, event)
    system.too_late.append(event)
    until(lambda: _late(system) == before + 1, seconds=60)


def _late(system: System) -> int:
    return next(part.late for part in status(system.settings).parts if part.part == "sessionize")


def _produce(system: System, *events: Event) -> None:
    encode = Registry(system.settings).encode_event
    system.produce_all((RAW_TOPICS[event.type], (event.utk or event.event_id).encode(), encode(event)) for event in events)


FAULTS: dict[str, dict[str, Fault]] = {
    "poison": {"poison": poison},
    "duplicates": {"duplicates": duplicates},
    "late events": {"events are late": late},
}
