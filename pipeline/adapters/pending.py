"""Records that were read and not yet written, and when it is time to write them."""

from collections.abc import Sequence

from confluent_kafka import Message

FLUSH_ROWS = 40_000
FLUSH_BYTES = 64 << 20
FLUSH_S = 0.25
"""A flush is due when one of these is reached; the time counts from the first record."""
PACE = 4
"""... or, under load, so many times as long as the last flush took: ten rows cost ClickHouse nearly as much as a thousand."""
LONGEST_S = 2.0
"""... but no longer than this, and not when nothing more has come for as long as the last flush took: then there is no load any more."""

Place = tuple[str, int]
"""Topic as Kafka knows it, and partition."""


class Pending:
    """Records by topic as Kafka knows it, each topic in the order in which they came."""

    def __init__(self) -> None:
        self.wait = FLUSH_S
        """Seconds from the first record to the flush ..."""
        self.idle = FLUSH_S
        """... or from the last one."""
        self.clear()

    def took(self, seconds: float) -> None:
        """Hears how long the last flush took."""
        self.wait = min(max(FLUSH_S, PACE * seconds), LONGEST_S)
        self.idle = min(max(FLUSH_S, seconds), LONGEST_S)

    def clear(self) -> None:
        self.messages: dict[str, list[Message]] = {}
        self.rows = 0
        self.bytes = 0
        self.since = self.latest = 0.0
        """When the first record came, and the last."""

    def add(self, messages: Sequence[Message], now: float) -> None:
        """`now` in seconds of any clock, the same that `is_due` is asked with."""
        for message in messages:
            self.messages.setdefault(str(message.topic()), []).append(message)
            self.bytes += len(message)
            self.rows += 1
        if self.rows and not self.since:
            self.since = self.latest = now
        if messages:
            self.latest = now

    def drop(self, places: set[Place]) -> None:
        """Forgets what is somebody else's to write."""
        kept = [m for messages in self.messages.values() for m in messages if (m.topic(), m.partition()) not in places]
        since = self.since
        self.clear()
        self.add(kept, since)

    def ends(self) -> dict[Place, int]:
        """The offset after the last record of each partition."""
        last = {(topic, m.partition() or 0): m.offset() or 0 for topic, messages in self.messages.items() for m in messages}
        return {place: offset + 1 for place, offset in last.items()}

    def is_full(self) -> bool:
        return self.rows >= FLUSH_ROWS or self.bytes >= FLUSH_BYTES

    def is_due(self, now: float) -> bool:
        return self.rows > 0 and (self.is_full() or now - self.since >= self.wait or now - self.latest >= self.idle)
