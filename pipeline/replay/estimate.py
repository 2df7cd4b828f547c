"""`replay start --dry-run`: how much a replay would read, and how long that would take; nothing is changed anywhere.

The rate is that of the last replay, if there was one of some size. Otherwise a short trial: the beginning of the raw topics is decoded
and folded as `resolve` does it, in one process. Writing is not in it, and a replay has several processes, so this is rough.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec
from confluent_kafka import Message, TopicPartition

from pipeline.adapters import kafka
from pipeline.adapters.avro import Registry
from pipeline.core.copies import merge
from pipeline.core.events import Event
from pipeline.core.policy import Policy
from pipeline.replay import registry
from pipeline.replay.registry import Generations
from pipeline.replay.start import Span, span
from pipeline.resolve import resolve_events
from pipeline.settings import Settings

_WORTH_RECORDS = 10_000
"""A replay of fewer records says nothing about the next one."""
_TRIAL_RECORDS = 20_000
_TRIAL_S = 10.0


class Estimate(msgspec.Struct, frozen=True):
    """`bytes` are keys and values, from those of a sample; `is_rough`: whether nothing like it was measured; `how` it was estimated."""

    records: int
    bytes: int
    seconds: float
    is_rough: bool
    how: str


def estimate(settings: Settings, since: int | None, policy: Policy) -> Estimate:
    """Of a replay that would be started now. UserError if Kafka or ClickHouse cannot be asked."""
    todo = span(settings, since)
    decoder = Registry(settings, wait_s=30)
    samples = {topic: _sample(settings, topic, begin, todo) for topic, begin in _by_topic(todo).items()}
    started = time.monotonic()
    resolve_events(_events(decoder, samples), policy)
    took_s = time.monotonic() - started
    bytes_ = sum(_records(todo, topic) * _bytes(sample) // len(sample) for topic, sample in samples.items() if sample)
    if last := _last(registry.read(settings)):
        return Estimate(todo.records, bytes_, todo.records / last.rate, is_rough=False, how=f"at the rate of generation {last.number}")
    sampled = sum(map(len, samples.values()))
    how = f"from a trial: decoding and folding {sampled:,} of them took {took_s:.2f} s in one process; writing comes on top"
    return Estimate(todo.records, bytes_, todo.records * took_s / max(sampled, 1), is_rough=True, how=how)


class _Rate(msgspec.Struct, frozen=True):
    number: int
    rate: float


def _last(generations: Generations) -> _Rate | None:
    """How many records a second the last replay of some size did."""
    for generation in reversed(generations.known):
        about = generation.about
        if about.built_at is not None and about.records >= _WORTH_RECORDS and about.seconds > 0:
            return _Rate(generation.number, about.records / about.seconds)
    return None


def _by_topic(todo: Span) -> dict[str, dict[int, int]]:
    """Where the partitions that hold something begin."""
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for (topic, partition), begin in todo.begin.items():
        if begin < todo.until[topic, partition]:
            found[topic][partition] = begin
    return found


def _records(todo: Span, topic: str) -> int:
    return sum(todo.until[place] - begin for place, begin in todo.begin.items() if place[0] == topic)


def _bytes(messages: Iterable[Message]) -> int:
    return sum(len(message.key() or b"") + len(message.value() or b"") for message in messages)


def _sample(settings: Settings, topic: str, begin: Mapping[int, int], todo: Span) -> list[Message]:
    """The first records of a topic: its share of the trial, or what comes of it in time."""
    name = kafka.topic_name(settings, topic)
    records = _records(todo, topic)
    wanted = max(min(_TRIAL_RECORDS * records // todo.records, records), 1)
    consumer = kafka.consumer(settings)
    consumer.assign([TopicPartition(name, partition, offset) for partition, offset in begin.items()])
    messages: list[Message] = []
    deadline = time.monotonic() + _TRIAL_S
    while len(messages) < wanted and time.monotonic() < deadline:
        messages += [message for message in consumer.consume(wanted - len(messages), 0.2) if message.error() is None]
    consumer.close()
    return messages


def _events(decoder: Registry, samples: Mapping[str, Iterable[Message]]) -> list[Event]:
    copies: dict[tuple[int, str], list[Event]] = defaultdict(list)
    for topic, messages in samples.items():
        for batch in decoder.decode_events([message.value() for message in messages], topic).batches:
            for event in batch.events():
                copies[event.portal_id, event.event_id].append(event)
    return [merge(each).event for each in copies.values()]
