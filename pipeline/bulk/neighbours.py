"""What units of work need of the outside: a partition in large batches; a ClickHouse and a producer that wait for their servers."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, Message, TopicPartition

from pipeline.adapters import kafka
from pipeline.adapters.avro import Registry
from pipeline.adapters.changelog import Changelog, FencedError, Output, RetryError
from pipeline.adapters.patience import Complaints, PatientClickHouse, PatientProducer
from pipeline.bulk.workspace import Place
from pipeline.errors import UserError
from pipeline.lag import Readings
from pipeline.logs import logger
from pipeline.settings import Settings

BATCH_RECORDS = 25_000
BATCH_BYTES = 16 << 20
"""A batch is complete with so many records, or bytes."""
_CONSUME = 10_000
_CONSUME_S = 0.2
_RETRY_S = 1.0
_CONSUMER: dict[str, Any] = {
    "enable.partition.eof": True,
    "queued.max.messages.kbytes": 16_384,
}
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_FATAL = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED})

log = logger("rebuild")


class Neighbours(NamedTuple):
    clickhouse: PatientClickHouse
    producer: PatientProducer
    registry: Registry


@contextmanager
def neighbours(settings: Settings) -> Iterator[Neighbours]:
    """While a server is away, calls wait for it and say so."""
    complaints = Complaints(log)
    found = Neighbours(
        PatientClickHouse(settings, time.sleep, complaints), PatientProducer(settings, time.sleep, complaints), Registry(settings)
    )
    try:
        yield found
    finally:
        found.clickhouse.disconnect()


def ends(settings: Settings, topics: Collection[str]) -> dict[Place, int]:
    """The offset after the last record of every partition of these topics (logical names)."""
    with Readings(settings, ()) as readings:
        return readings.ends(topics)


def batches(settings: Settings, place: Place, start: int, until: int) -> Iterator[list[Message]]:
    """The records of a partition with start <= offset < until, in their order. Waits while Kafka is away."""
    if start >= until:
        return
    topic, partition = place
    complaints = Complaints(log)
    consumer = kafka.consumer(settings, **_CONSUMER)
    consumer.assign([TopicPartition(kafka.topic_name(settings, topic), partition, start)])
    batch: list[Message] = []
    size, due = 0, start
    try:
        is_end = False
        while not is_end:
            messages = consumer.consume(min(_CONSUME, max(until - due, 1)), _CONSUME_S)  # no more than are left, or it waits for more
            for message in [message for message in messages if message.error() is not None]:
                messages.remove(message)
                is_end |= _is_end(settings, message, complaints) and _offset(message) >= until
            if messages:
                due = _offset(messages[-1]) + 1
                is_end |= due >= until
                batch += messages if due <= until else [message for message in messages if _offset(message) < until]
                size += sum(map(len, messages))
            if batch and (is_end or len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES):
                yield batch
                batch, size = [], 0
    finally:
        consumer.close()


def _offset(message: Message) -> int:
    return message.offset() or 0


def _is_end(settings: Settings, message: Message, complaints: Complaints) -> bool:
    """Whether this error only says that there is no more; UserError if waiting does not help."""
    error: KafkaError = message.error()  # type: ignore[assignment]
    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
        return True
    if error.fatal() or error.code() in _FATAL:
        raise kafka.user_error(settings, error)
    complaints.say("waiting for Kafka", error=error.str())
    return False


def commit(
    changelog: Changelog,
    outputs: list[Output],
    changes: Mapping[bytes, bytes | None],
    applied: Mapping[str, int] = _NOTHING,
    topic_ids: Mapping[str, str] = _NOTHING,
) -> None:
    """One transaction, again if it was aborted. UserError if somebody else opened the partition."""
    while True:
        try:
            return changelog.commit(outputs, changes, applied, topic_ids)
        except RetryError as error:
            log.warning("doing a transaction again", error=str(error))
            time.sleep(_RETRY_S)
            changelog.fence()
        except FencedError as error:
            raise UserError(f"{error}: a worker of this installation has started; stop it until the rebuild is done") from None
