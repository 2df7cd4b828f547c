"""`dead-letters`: what was refused, told and put back (the format is adapters/dead_letters.py).

A letter goes back when it can be an event by now: because a schema was registered, or because a newer version reads what an older one
refused. A record goes to where it stood (topic, partition, key, value, its own headers, byte for byte), a line is published as an
event; then a *mark* follows in the dead letters, which takes the letter out of `failed_events`. A crash in between leaves it there, and
putting it back again is safe: an event counts once. Whatever would be refused again stays.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipeline.adapters import dead_letters, kafka
from pipeline.adapters.avro import Registry
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.adapters.dead_letters import Headers, Said
from pipeline.core.events import Event
from pipeline.core.normalise import timestamp
from pipeline.core.outcomes import Reason, Refused
from pipeline.core.parsing import parse_line
from pipeline.errors import UsageError, UserError
from pipeline.settings import Settings

_READ = 1_000
_WAIT_S = 0.1
_PATIENCE_S = 10.0
_DELIVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Which:
    """Letters by reason, by topic (a logical name; empty: refused lines), and by when they were buried (epoch ms, the end excluded)."""

    reason: str | None = None
    topic: str | None = None
    since: int | None = None
    until: int | None = None

    def holds(self, letter: "Letter") -> bool:
        return (
            (self.reason is None or letter.said.reason == self.reason)
            and (self.topic is None or letter.said.topic == self.topic)
            and (self.since is None or letter.buried_at >= self.since)
            and (self.until is None or letter.buried_at < self.until)
        )


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter: its place among them, when it was buried (epoch ms), what is said about it, and the record."""

    partition: int
    offset: int
    buried_at: int
    said: Said
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Stat:
    """Letters of one kind; times in epoch ms."""

    reason: str
    topic: str
    part: str
    letters: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Requeued:
    """How many letters go back, by topic, and how many stay: by reason of what they would be refused for now."""

    back: dict[str, int]
    stay: dict[str, int]


def moment(text: str | None) -> int | None:
    """A time of the command line in epoch ms. UsageError if it is none."""
    if text is None:
        return None
    millis = timestamp(int(text) if text.isdigit() else text)
    if millis is None:
        raise UsageError(f"{text!r} is no time: give RFC 3339 with zone (2026-11-22T08:00:00Z), or milliseconds since 1970")
    return millis


def stats(settings: Settings) -> list[Stat]:
    """All letters that were not put back, by reason, topic and part."""
    times: dict[tuple[str, str, str], list[int]] = {}
    for letter in letters(settings, Which()):
        times.setdefault((letter.said.reason, letter.said.topic, letter.said.part), []).append(letter.buried_at)
    return [Stat(*kind, len(buried), min(buried), max(buried)) for kind, buried in sorted(times.items())]


def letters(settings: Settings, which: Which) -> Iterator[Letter]:
    """The letters that are there now and were not put back, those of a partition in order, each once. AwayError if Kafka is.

    One thing may have several letters: two generations refuse it at the same moment, or `record` does so again after a crash.
    """
    done = {_id(letter) for letter in _read(settings) if letter.said.is_mark}  # marks come after their letters, which do not all fit here
    for letter in _read(settings):
        if not letter.said.is_mark and which.holds(letter) and (id_ := _id(letter)) not in done:
            done.add(id_)
            yield letter


def newest(settings: Settings, which: Which, limit: int) -> list[Letter]:
    """The newest of these letters, the oldest of them first."""
    return sorted(nlargest(limit, letters(settings, which), key=_age), key=_age)


def _age(letter: Letter) -> tuple[int, int, int]:
    return letter.buried_at, letter.partition, letter.offset


def _id(letter: Letter) -> str:
    return letter.said.id(letter.value or b"")


def letter_at(settings: Settings, place: str) -> Letter:
    """The letter at `partition:offset` of the dead letters."""
    partition, _, offset = place.partition(":")
    if not (partition.isdigit() and offset.isdigit()):
        raise UsageError(f"{place!r} is no place of a dead letter: give partition:offset, as `dead-letters list` shows it")
    for letter in _read(settings, TopicPartition(kafka.topic_name(settings, dead_letters.TOPIC), int(partition), int(offset))):
        if (letter.partition, letter.offset) == (int(partition), int(offset)):
            return letter
        break
    raise UserError(f"there is no dead letter at {place}")


def requeue(settings: Settings, which: Which, *, dry_run: bool) -> Requeued:
    """Puts letters back, or only says what that would do. Returns when Kafka has all of them; UserError if it does not take them."""
    registry = Registry(settings, wait_s=30)
    post = None if dry_run else _Post(settings)
    back: Counter[str] = Counter()
    stay: Counter[str] = Counter()
    for letter in letters(settings, which):
        event = _event(letter, registry)
        if isinstance(event, Refused):
            stay[event.reason.value] += 1
            continue
        back[letter.said.topic or RAW_TOPICS[event.type]] += 1
        if post is not None:
            post.put_back(letter, event, registry)
    if post is not None:
        post.mark()
    return Requeued(dict(back), dict(stay))


class _Post:
    """Letters on their way back."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer = kafka.producer(settings, **{"message.max.bytes": 32 << 20, "on_delivery": self._hear})
        self._failures: set[str] = set()
        self._unmarked: list[Letter] = []

    def put_back(self, letter: Letter, event: Event, registry: Registry) -> None:
        stood = letter.said.stood
        if stood is None:
            self._produce(RAW_TOPICS[event.type], -1, (event.utk or event.event_id).encode(), registry.encode_event(event), [])
        else:
            self._produce(letter.said.topic, stood[0], letter.key, letter.value, letter.said.own)
        self._unmarked.append(letter)
        if len(self._unmarked) == _READ:
            self.mark()

    def mark(self) -> None:
        """What went back is there for good, and then is marked."""
        self._deliver()
        for letter in self._unmarked:
            said = letter.said
            value = letter.value if said.stood is None else None
            self._produce(dead_letters.TOPIC, letter.partition, letter.key, value, dead_letters.mark(said.reason, said.topic, said.stood))
        self._deliver()
        self._unmarked.clear()

    def _produce(self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        """Partition -1: that of the key."""
        while True:
            try:
                self._producer.produce(kafka.topic_name(self._settings, topic), value, key, partition, headers=headers)  # type: ignore[arg-type]
                return
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as exception:
                raise kafka.refusal(self._settings, exception, f"write topic {topic}") from None

    def _deliver(self) -> None:
        if self._producer.flush(_DELIVERY_S) or self._failures:
            raise UserError(
                f"kafka.bootstrap_servers is {self._settings.kafka.bootstrap_servers!r}: it did not take all records "
                f"({', '.join(sorted(self._failures)) or 'no answer'}). Requeue again when it is well: an event counts once."
            )

    def _hear(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and error.code() in kafka.PERMISSIONS:
            raise kafka.forbidden(self._settings, f"write topic {message.topic()}")
        if error is not None:
            self._failures.add(error.str())


def _event(letter: Letter, registry: Registry) -> Event | Refused:
    """What the letter says now."""
    if letter.said.is_cut:
        return Refused(Reason.TOO_LARGE, "the line: only its beginning was kept")
    if letter.said.stood is None:
        return parse_line((letter.value or b"").rstrip(b"\r\n"))
    if letter.said.topic not in RAW_TOPICS.values():
        return Refused(Reason.UNKNOWN_TYPE, "the topic: expected a raw topic")
    decoded = registry.decode_events([letter.value], letter.said.topic)
    return decoded.refused[0][1] if decoded.refused else decoded.batches[0].events()[0]


def _read(settings: Settings, start: TopicPartition | None = None) -> Iterator[Letter]:
    """The letters and marks from the beginning, or from one place of one partition, to their present end; those of a partition in order."""
    kafka.reach(settings)
    name = kafka.topic_name(settings, dead_letters.TOPIC)
    consumer = kafka.consumer(settings, None, **{"enable.partition.eof": True})
    try:
        places = [start] if start else [TopicPartition(name, number, 0) for number in _partitions(settings, consumer, name)]
        consumer.assign(places)
        yield from _until_end(settings, consumer, {place.partition for place in places})
    finally:
        consumer.close()


def _until_end(settings: Settings, consumer: Consumer, unread: set[int]) -> Iterator[Letter]:
    heard_at = time.monotonic()
    while unread:
        messages = consumer.consume(_READ, _WAIT_S)
        for message in messages:
            error = message.error()
            if error is None:
                yield _letter(message)
            elif error.code() in (KafkaError._PARTITION_EOF, KafkaError.OFFSET_OUT_OF_RANGE):  # noqa: SLF001  # librdkafka's own code
                unread.discard(message.partition())
            else:
                raise kafka.user_error(settings, error, f"read topic {dead_letters.TOPIC} ({error.str()})")
        if messages:
            heard_at = time.monotonic()  # after whoever takes the letters took their time
        elif time.monotonic() - heard_at > _PATIENCE_S:
            raise kafka.AwayError(f"kafka.bootstrap_servers is {settings.kafka.bootstrap_servers!r}: it does not answer any more")


def _partitions(settings: Settings, consumer: Consumer, name: str) -> list[int]:
    metadata = consumer.list_topics(name, timeout=_PATIENCE_S).topics[name]
    if metadata.error is not None and metadata.error.code() in kafka.PERMISSIONS:
        raise kafka.forbidden(settings, f"read topic {name}")
    if metadata.error is not None:
        raise UserError(f"Kafka has no topic {name}: make the topics with `python -m pipeline topics create`")
    return sorted(metadata.partitions)


def _letter(message: Any) -> Letter:
    at = message.timestamp()[1]
    return Letter(message.partition(), message.offset(), at, Said.of(message.headers()), message.key(), message.value())
