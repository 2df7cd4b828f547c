"""From the records of a batch to events."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.adapters.avro import Decoded, EventColumns
from pipeline.core.events import Event

Decode = Callable[[Sequence[bytes | None], str], Decoded]
"""`Registry.decode_events`: of values from a topic (its logical name)."""


class Arrived(NamedTuple):
    """What came from one topic: the keys of its records in the order of their offsets, and the events among them."""

    keys: list[bytes | None]
    batches: list[EventColumns]

    def __len__(self) -> int:
        """How many events."""
        return sum(len(batch.rows) for batch in self.batches)

    def events(self) -> list[Event]:
        """In the order of their offsets."""
        placed = sorted((row, event) for batch in self.batches for row, event in zip(batch.rows, batch.events(), strict=True))
        return [event for _, event in placed]


def arrived(decode: Decode, topic: str, keys: list[bytes | None], values: Sequence[bytes | None]) -> Arrived:
    """The events among these records. A refused one is skipped: `record` keeps it among the dead letters."""
    return Arrived(keys, decode(values, topic).batches if values else [])


def placed_events(decode: Decode, topic: str, values: Sequence[bytes | None]) -> list[Event | None]:
    """One entry per value: its event, or None where the record was refused."""
    placed: list[Event | None] = [None] * len(values)
    if values:
        for columns in decode(values, topic).batches:
            for row, event in zip(columns.rows, columns.events(), strict=True):
                placed[row] = event
    return placed
