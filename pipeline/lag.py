"""How far each part has read each topic, from Kafka alone: committed offsets against ends.

The end of a partition is no measure by itself: a transaction ends with a control record that no reader ever sees, and
compaction leaves gaps. So where a part stands before the end, one look at the log tells whether a record is waiting there.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from confluent_kafka import ConsumerGroupState, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # public, but left out of __all__

from pipeline.adapters import kafka
from pipeline.adapters.contracts import load_topics
from pipeline.adapters.topics import check_partitions
from pipeline.errors import UserError
from pipeline.settings import Settings

TIMEOUT_S = 10.0
_GLIMPSE = {
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "fetch.message.max.bytes": 65536,
    "queued.min.messages": 1,
    "fetch.wait.max.ms": 10,
}
"""A consumer that fetches little: it reads one record of a partition, or none."""

_NOT_YET = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}
"""So answers a broker that has just started, or a topic that was made a moment ago."""
_OTHER_TOPICS = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._NOENT}  # noqa: SLF001 - their public names
"""So answer Kafka and librdkafka where a topic is missing, or a partition of it; the last also where no partition has a leader."""

T = TypeVar("T")

Place = tuple[str, int]
"""Topic (its name in topics/*.yaml) and partition."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How far one part has read one partition.

    `next_offset` is the first record that waits, or the end if none does; `waiting_since` its Kafka timestamp; `records` that
    wait at most (offsets, so control records and gaps count); `committed_at` when the part committed last. Times are
    epoch ms, None if there is none or nobody knows.
    """

    part: str
    topic: str
    partition: int
    next_offset: int
    waiting_since: int | None
    end: int
    committed_at: int | None

    @property
    def records(self) -> int:
        return max(self.end - self.next_offset, 0)

    def seconds(self, now_ms: int) -> float:
        """How long the first waiting record has been waiting; 0 if none is."""
        return max(now_ms - self.waiting_since, 0) / 1000 if self.records and self.waiting_since is not None else 0.0


class Readings:
    """Asks Kafka on behalf of the parts, without joining their groups. Use as a context manager."""

    def __init__(self, settings: Settings, parts: Iterable[str]) -> None:
        """UserError if Kafka does not answer."""
        kafka.reach(settings)
        self._settings = settings
        self._admin = kafka.admin(settings)
        self._consumers = {part: kafka.consumer(settings, group=part, **_GLIMPSE) for part in parts}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for consumer in self._consumers.values():
            consumer.close()

    def ends(self, topics: Collection[str]) -> dict[Place, int]:
        """The offset after the last record of every partition, transactions that are still open aside."""
        return self._offsets(topics, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def begins(self, topics: Collection[str], since: int | None = None) -> dict[Place, int]:
        """The first offset of every partition; or that of the first record published at `since` (epoch ms) or later, else its end."""
        if since is None:
            return self._offsets(topics, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        ends = self.ends(topics)
        found = self._offsets(topics, OffsetSpec.for_timestamp(since))
        return {place: offset if offset >= 0 else ends[place] for place, offset in found.items()}

    def positions(self, part: str, places: Collection[Place]) -> dict[Place, int]:
        """The offsets that the part has committed; places where it has none are left out."""
        if not places:
            return {}
        committed = self._committed(part, places)
        return {place: answer.offset for place, answer in zip(places, committed, strict=True) if answer.offset >= 0}

    def processes(self, part: str) -> int:
        """How many processes of the part are at work, on whatever machine."""
        self._committed(part, [(consumed(part)[0], 0)])  # a young broker gets its coordinator ready; the next would only time out
        name = kafka.group_name(self._settings, part)
        asked = self._admin.describe_consumer_groups([name], request_timeout=TIMEOUT_S)[name]
        described = self._patiently(asked.result)
        return len(described.members) if described.state == ConsumerGroupState.STABLE else 0

    def read(self, part: str, topics: Collection[str]) -> list[Reading]:
        """How far `part` has read `topics`."""
        ends = self.ends(topics)
        if not ends:
            return []
        committed = dict(zip(ends, self._committed(part, ends), strict=True))
        begins = self.begins(topics)
        reached = {  # what was committed and is not there (any more) counts for nothing
            place: answer.offset if begins[place] <= answer.offset <= ends[place] else begins[place] for place, answer in committed.items()
        }
        waiting = self._glimpse(part, {place: offset for place, offset in reached.items() if offset < ends[place]})
        return [_reading(part, place, waiting.get(place), ends[place], committed[place].metadata) for place in ends]

    def _offsets(self, topics: Collection[str], which: Any) -> dict[Place, int]:
        named = {kafka.topic_name(self._settings, topic): topic for topic in topics}
        contracts = load_topics()
        asked = {TopicPartition(name, number): which for name, topic in named.items() for number in range(contracts[topic].partitions)}

        def ask() -> dict[Place, int]:
            answers = self._admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=TIMEOUT_S)
            return {(named[place.topic], place.partition): answer.result().offset for place, answer in answers.items()}

        return self._patiently(ask)

    def _committed(self, part: str, places: Iterable[Place]) -> list[TopicPartition]:
        """One answer per place, in their order; offset -1001 where nothing was committed."""
        named = self._named(dict.fromkeys(places, 0))
        return self._patiently(lambda: list(self._consumers[part].committed(named, timeout=TIMEOUT_S)))

    def _patiently(self, ask: Callable[[], T]) -> T:
        """The answer, asked for again while the broker is only getting ready."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return ask()
            except KafkaException as error:
                if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                    raise self._in_words(error.args[0]) from None
            time.sleep(0.1)

    def _glimpse(self, part: str, offsets: Mapping[Place, int]) -> dict[Place, tuple[int, int]]:
        """Offset and Kafka timestamp of the first record at or after each offset; a place without one is left out."""
        if not offsets:
            return {}
        named = self._named(offsets)
        logical = {(name.topic, name.partition): place for name, place in zip(named, offsets, strict=True)}
        found: dict[Place, tuple[int, int]] = {}
        open_places, deadline = set(logical), time.monotonic() + TIMEOUT_S
        consumer = self._consumers[part]
        consumer.assign(named)
        while open_places:
            if time.monotonic() > deadline:
                raise kafka.user_error(self._settings, KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - its public name
            message = consumer.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                raise self._in_words(error)
            place = str(message.topic()), int(message.partition() or 0)
            if place in open_places:
                open_places.discard(place)
                if error is None:
                    found[logical[place]] = int(message.offset() or 0), message.timestamp()[1]
        consumer.unassign()
        return found

    def _in_words(self, error: KafkaError) -> UserError:
        if error.code() in _OTHER_TOPICS:
            contracts = load_topics()
            check_partitions(self._settings, [contracts[topic] for part in self._consumers for topic in consumed(part)])
        return kafka.user_error(self._settings, error, "see how far the parts are")

    def _named(self, offsets: Mapping[Place, int]) -> list[TopicPartition]:
        return [
            TopicPartition(kafka.topic_name(self._settings, topic), partition, offset) for (topic, partition), offset in offsets.items()
        ]


def consumed(part: str) -> list[str]:
    """The topics that a part reads as a consumer group, from the contracts; its own changelog it only restores."""
    return [topic.name for topic in load_topics().values() if part in topic.consumers and not topic.name.endswith("-changelog")]


def _reading(part: str, place: Place, waiting: tuple[int, int] | None, end: int, metadata: str | None) -> Reading:
    topic, partition = place
    next_offset, since = waiting or (end, None)
    return Reading(part, topic, partition, next_offset, since, end, _moment(metadata))


def _moment(metadata: str | None) -> int | None:
    """Our parts write the time of a commit, in epoch ms, into its metadata."""
    return int(metadata) if metadata and metadata.isdigit() else None
