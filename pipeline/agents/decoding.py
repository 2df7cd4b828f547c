"""From the records of a batch to events in the order of their offsets."""

from collections.abc import Callable, Sequence

from pipeline.adapters.avro import Decoded
from pipeline.core.events import Event

Decode = Callable[[Sequence[bytes | None], str], Decoded]
"""`Registry.decode_events`: of values from a topic (its logical name)."""
Arrival = tuple[bytes | None, Event]
"""An event and the key of its record."""


def arrivals(decode: Decode, topic: str, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> list[Arrival]:
    """The events with their keys. A refused record is skipped: `record` keeps it among the dead letters."""
    return [(key, event) for key, event in zip(keys, placed_events(decode, topic, values), strict=True) if event is not None]


def placed_events(decode: Decode, topic: str, values: Sequence[bytes | None]) -> list[Event | None]:
    """One entry per value: its event, or None where the record was refused."""
    placed: list[Event | None] = [None] * len(values)
    if values:
        for columns in decode(values, topic).batches:
            for row, event in zip(columns.rows, columns.events(), strict=True):
                placed[row] = event
    return placed
