"""Stateless parts: events of one topic are sent on to another, under another key, byte for byte.

At least once: all of a batch is delivered before it is acked, and what is delivered twice after a crash is the same event
twice, which every reader knows (spec: events.md, "One event id, one event").
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipeline.adapters import kafka
from pipeline.adapters.avro_columns import MAX_BYTES
from pipeline.adapters.batching import Batch
from pipeline.adapters.changelog import RefusedError
from pipeline.agents.decoding import Decode, placed_events
from pipeline.agents.health import Health
from pipeline.core.events import Event
from pipeline.logs import logger
from pipeline.settings import Settings

_PATIENCE_S = 5.0

log = logger("route")


@dataclass(frozen=True, slots=True)
class Route:
    """A stateless part: an event goes to `target` under `key(event)`, or nowhere if that is None. Topics are logical names."""

    sources: tuple[str, ...]
    target: str
    key: Callable[[Event], bytes | None]


class Routing:
    """One route in one process. Batches are settled one call after the other (one lane)."""

    def __init__(self, settings: Settings, route: Route, decode: Decode, health: Health) -> None:
        self._settings = settings
        self._target = kafka.topic_name(settings, route.target)
        self._route = route
        self._decode = decode
        self._health = health
        self._undelivered: KafkaError | None = None
        self._producer: Producer = kafka.producer(
            settings,
            **{
                "enable.idempotence": True,
                "message.timeout.ms": 0,  # for ever: while Kafka is away we wait
                "message.max.bytes": 2 * MAX_BYTES,  # of librdkafka's limit a record's own framing takes some
                "delivery.report.only.error": True,
                "on_delivery": self._not_delivered,
            },
        )

    def lane(self, batch: Batch) -> int:  # noqa: ARG002
        """There is one producer, which is flushed for all."""
        return 0

    def settle(self, batches: Sequence[Batch]) -> bool:
        """Sends on what is to be sent; True when the broker has all of it. RefusedError if it will not take a record."""
        refused = 0
        for topic, values in _by_topic(batches).items():
            events = placed_events(self._decode, topic, values)
            for event, value in zip(events, values, strict=True):
                if event is not None and (key := self._route.key(event)) is not None:
                    self._send(key, value)
            refused += events.count(None)
        self._flush()
        self._health.add(events=sum(map(len, batches)) - refused, refused=refused)
        for batch in batches:
            self._health.committed(batch.partition, batch.topic, batch.offsets[-1])
        return True

    def _send(self, key: bytes, value: bytes | None) -> None:
        while True:
            try:
                return self._producer.produce(self._target, value, key)
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as exception:
                raise kafka.refusal(self._settings, exception, f"write topic {self._target}") from None

    def _flush(self) -> None:
        while self._producer.flush(_PATIENCE_S):
            log.warning("waiting for Kafka", doing="routing a batch", to=self._target)
        if self._undelivered is not None and self._undelivered.code() in kafka.PERMISSIONS:
            raise kafka.forbidden(self._settings, f"write topic {self._target}")
        if self._undelivered is not None:
            raise RefusedError(f"Kafka refuses what we write to {self._target}: {self._undelivered.str()}")

    def _not_delivered(self, error: KafkaError | None, message: Message) -> None:  # noqa: ARG002
        if error is not None and self._undelivered is None:
            self._undelivered = error


def _by_topic(batches: Sequence[Batch]) -> Mapping[str, list[bytes | None]]:
    """The values of each topic together: a small batch costs nearly as much to decode as a large one."""
    values: defaultdict[str, list[bytes | None]] = defaultdict(list)
    for batch in batches:
        values[batch.topic] += batch.values
    return values
