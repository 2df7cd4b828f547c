"""State and outputs of a stateful part, atomically in Kafka: one transaction for each batch.

A table of a part is a compacted topic, `<app>-<table>-changelog`, partitioned as its sources are. Whoever owns a partition
keeps its part of the table in memory and writes each change here, together with what follows from it (the outputs) and with the
record `applied`, which says up to which offset of each source topic (by its id, see topic_ids.py) the state has come:

    transaction  =  outputs  +  changed keys  +  applied

- Opening a partition calls `init_transactions` for its transactional id (app, table, partition): a predecessor that still
  lives is fenced, and can write nothing more, neither state nor outputs. Then the table is read back in bulk.
- A record at or below `applied` has its effects here already. So a batch that is delivered again changes nothing.
- Nothing is written but by a transaction, and readers use `read_committed`: state, outputs and `applied` never disagree.

Flush before commit: `commit` returns only when the transaction is; the offsets of the sources are committed after that.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from pipeline.adapters import kafka
from pipeline.logs import logger
from pipeline.settings import Settings

APPLIED = b"applied"
"""Key of the one record of a changelog that is not an item."""
TRANSACTION_TIMEOUT_MS = 30_000
"""After this the broker aborts a transaction that its owner has left open; until then its readers wait."""
LARGEST_MESSAGE = 64 << 20
"""Bytes. The limit that counts is the topic's `max.message.bytes`."""
_PATIENCE_S = 5.0
"""How long a call waits for the broker before it says so in the log and waits on."""
_NEW_TOPIC_S = 10.0
"""How long a topic may be unknown before it counts as missing."""
_RESTORE_RECORDS = 10_000

_NOTHING: Mapping[str, str] = MappingProxyType({})

log = logger("changelog")

_FENCED = {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED}  # noqa: SLF001  # librdkafka's own codes
_AWAY = {
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    KafkaError._RESOLVE,  # noqa: SLF001
    KafkaError._WAIT_COORD,  # noqa: SLF001
    KafkaError._IN_PROGRESS,  # noqa: SLF001
    KafkaError._CONFLICT,  # noqa: SLF001
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.CONCURRENT_TRANSACTIONS,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.OFFSET_NOT_AVAILABLE,
}
"""Waiting mends these, whether librdkafka calls them retriable or not."""
_UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}  # noqa: SLF001
_REFUSED = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_MSG,
    KafkaError.POLICY_VIOLATION,
    *_UNKNOWN,
}
_PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}  # noqa: SLF001
"""What becomes of the other records of a failed transaction."""


class Output(NamedTuple):
    """A derived record. `topic` is the logical name; `value` None says that the key is gone."""

    topic: str
    key: bytes
    value: bytes | None


class Restored(NamedTuple):
    """A partition of a table: the last offset applied of each source topic (logical name), the live items, and the ids of the topics."""

    applied: dict[str, int]
    items: dict[bytes, bytes]
    topic_ids: Mapping[str, str] = _NOTHING


class FencedError(Exception):
    """Another owner has opened the partition: what we have of it is stale, and nothing of the last commit was written."""


class RetryError(Exception):
    """The transaction was aborted: nothing of it was written, and the state in memory is ahead of the log. Open again, do it again."""


class RefusedError(RuntimeError):
    """The broker will never take what we wrote (too large, no such topic): trying again is no use."""


def topic_of(settings: Settings, app: str, table: str) -> str:
    """The changelog as Kafka knows it."""
    return kafka.topic_name(settings, f"{app}-{table}-changelog")


class Changelog:
    """One partition of one table. Not thread-safe. `open` first; after any error `open` again, or `close`."""

    def __init__(self, settings: Settings, app: str, table: str, partition: int) -> None:
        self._settings = settings
        self._app = app
        self._partition = partition
        self._topic = topic_of(settings, app, table)
        self._transactional_id = kafka.group_name(settings, f"{app}-{table}-{partition}")
        self._producer: Producer | None = None
        self._undelivered: KafkaError | None = None
        self._log = log.bind(topic=self._topic, partition=partition)

    def open(self) -> Restored:
        """Fences the previous owner and reads the table back. Waits while Kafka is away. Raises as `commit` does."""
        self.fence()
        try:
            return self._restore()
        except KafkaException as exception:
            raise self._verdict(exception.args[0], exception.args[0]) from exception

    def fence(self) -> None:
        """Only fences the previous owner: for one who writes the whole table anew. Otherwise as `open`."""
        self.close()
        self._undelivered = None
        producer = kafka.producer(
            self._settings,
            **{
                "transactional.id": self._transactional_id,
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "message.max.bytes": LARGEST_MESSAGE,
                "queue.buffering.max.messages": 1_000_000,
                "delivery.report.only.error": True,
                "on_delivery": self._not_delivered,
            },
        )
        self._producer = producer
        try:
            self._patiently(lambda: producer.init_transactions(_PATIENCE_S), "opening the partition")
        except KafkaException as exception:
            raise self._verdict(exception.args[0], exception.args[0]) from exception

    def commit(
        self,
        outputs: Iterable[Output],
        changes: Mapping[bytes, bytes | None],
        applied: Mapping[str, int],
        topic_ids: Mapping[str, str] = _NOTHING,
    ) -> None:
        """One transaction. Outputs go to the partition that is ours; `topic_ids` say in which topics the offsets `applied` are. Waits while
        Kafka is away.

        Raises FencedError, RetryError (see there), RefusedError, or UserError if we may not; then nothing of it is visible to anybody.
        """
        assert self._producer is not None, "open the changelog first"
        assert APPLIED not in changes, "the key of the applied offsets is not an item's"
        try:
            self._producer.begin_transaction()
            for topic, records in _by_topic(outputs).items():
                self._produce(kafka.topic_name(self._settings, topic), records)
            self._produce(self._topic, [*changes.items(), (APPLIED, _encode_applied(applied, topic_ids))])
            self._patiently(self._commit_transaction, "committing a batch")
        except KafkaException as exception:
            raise self._abort(exception.args[0]) from exception

    def close(self) -> None:
        """Lets the producer go; a transaction that is open is aborted by the next owner, or by its timeout."""
        if self._producer is not None:
            self._producer.purge(in_queue=True, in_flight=True, blocking=False)
            self._producer = None

    def _produce(self, topic: str, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        produce, poll = self._producer.produce, self._producer.poll  # type: ignore[union-attr]
        for key, value in records:
            while True:
                try:
                    produce(topic, value, key, self._partition)
                    break
                except BufferError:  # the queue is full: give the broker time
                    poll(0.1)

    def _commit_transaction(self) -> None:
        self._producer.commit_transaction(_PATIENCE_S)  # type: ignore[union-attr]  # flushes; not `flush` itself: that raises amid callbacks

    def _abort(self, error: KafkaError) -> Exception:
        """Ends the failed transaction; what to raise."""
        cause = self._undelivered or error
        self._log.warning("a transaction failed", error=str(error), cause=str(cause))
        if not error.fatal():
            try:
                self._patiently(lambda: self._producer.abort_transaction(_PATIENCE_S), "aborting a batch")  # type: ignore[union-attr]
            except KafkaException as exception:
                error = exception.args[0]
        return self._verdict(error, cause)

    def _verdict(self, error: KafkaError, cause: KafkaError) -> Exception:
        for refused in (error, cause):
            if refused.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
                return kafka.forbidden(self._settings, f"write transaction {self._transactional_id}")
            if refused.code() in kafka.PERMISSIONS:
                return kafka.forbidden(self._settings, f"write topic {self._topic}, or one of those written with it")
        if error.code() in _FENCED or cause.code() in _FENCED:
            return FencedError(self._transactional_id)
        if error.code() in _REFUSED or cause.code() in _REFUSED:
            return RefusedError(f"Kafka refuses what we write to {self._topic} or beside it: {cause.str()}")
        return RetryError(str(error))

    def _not_delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and error.code() not in _PURGED and self._undelivered is None:
            self._undelivered = error
            self._log.warning("a record was not delivered", to=message.topic(), error=error.str())

    def _patiently(self, call: Callable[[], None], what: str) -> None:
        patiently(self._log, call, what)

    def _restore(self) -> Restored:
        """Reads the partition up to the end that it had after the fence; nobody else can write behind it any more."""
        consumer = kafka.consumer(self._settings, self._app, **{"enable.partition.eof": True})
        try:
            items = self._read_all(consumer)
        finally:
            consumer.close()
        applied = items.pop(APPLIED, None)
        with self.understood():
            offsets, topic_ids = _decode_applied(applied) if applied else ({}, {})
            return Restored(offsets, items, topic_ids)

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Around whatever reads what was restored: DamagedError if it is not what we have written."""
        try:
            yield
        except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
            raise kafka.DamagedError(
                f"the state in {self._topic}[{self._partition}] is not what {self._app} has written ({type(error).__name__}). To compute "
                f"it again from its sources: stop {self._app}, delete the topic, make it anew (`python -m pipeline topics create`), start."
            ) from error

    def _read_all(self, consumer: Consumer) -> dict[bytes, bytes]:
        end = self._end(consumer)
        items: dict[bytes, bytes] = {}
        if end == 0:
            return items
        consumer.assign([TopicPartition(self._topic, self._partition, OFFSET_BEGINNING)])
        heard_at = time.monotonic()
        while True:
            messages = consumer.consume(_RESTORE_RECORDS, timeout=0.02)
            if messages:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > _PATIENCE_S:
                heard_at = time.monotonic()
                self._log.warning("waiting for Kafka", doing="restoring the partition")
            for message in messages:
                if message.error() is not None:
                    if self._is_end(message, end):
                        return items
                elif (value := message.value()) is not None:
                    items[message.key()] = value  # type: ignore[index]
                else:
                    items.pop(message.key(), None)  # type: ignore[arg-type]

    def _end(self, consumer: Consumer) -> int:
        """The offset that the next record would have; 0 if there never was one. A new topic takes a moment to be known everywhere."""
        where = TopicPartition(self._topic, self._partition)
        found: list[int] = []
        deadline = time.monotonic() + _NEW_TOPIC_S
        while not found:
            try:
                self._patiently(lambda: found.append(consumer.get_watermark_offsets(where, timeout=_PATIENCE_S)[1]), "restoring")
            except KafkaException as exception:
                if exception.args[0].code() not in _UNKNOWN or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        return found[0]

    def _is_end(self, message: Message, end: int) -> bool:
        """Whether this event says that `end` is reached: the last offsets may be control records, so only the broker can tell."""
        error: KafkaError = message.error()  # type: ignore[assignment]
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            return (message.offset() or 0) >= end
        if error.code() == KafkaError._BAD_MSG:  # noqa: SLF001
            with self.understood():
                raise ValueError(error.str())
        if error.code() in kafka.PERMISSIONS:
            raise kafka.forbidden(self._settings, kafka.reading(self._settings, error, self._topic, self._app))
        if not (error.retriable() or error.code() in _AWAY):
            raise RefusedError(f"restoring {self._topic}[{self._partition}]: {error.str()}") from KafkaException(error)
        self._log.warning("waiting for Kafka", doing="restoring the partition", error=error.str())
        return False


def patiently(log: Any, call: Callable[[], None], what: str) -> None:
    """Calls until Kafka answers; KafkaException if the answer is an error that waiting does not mend."""
    while True:
        try:
            return call()
        except KafkaException as exception:
            error: KafkaError = exception.args[0]
            if error.fatal() or error.txn_requires_abort() or not (error.retriable() or error.code() in _AWAY):
                raise
            log.warning("waiting for Kafka", doing=what, error=error.str())
            time.sleep(0.1)


def _encode_applied(offsets: Mapping[str, int], topic_ids: Mapping[str, str]) -> bytes:
    return msgspec.msgpack.encode({topic: (offset, topic_ids.get(topic)) for topic, offset in offsets.items()})


def _decode_applied(value: bytes) -> tuple[dict[str, int], dict[str, str]]:
    """Offsets and ids of the topics; also as it was written before the ids were: the offset alone."""
    found = msgspec.msgpack.decode(value, type=dict[str, int | tuple[int, str | None]])
    places = {topic: (place, None) if isinstance(place, int) else place for topic, place in found.items()}
    return {topic: offset for topic, (offset, _) in places.items()}, {topic: id_ for topic, (_, id_) in places.items() if id_}


def _by_topic(outputs: Iterable[Output]) -> dict[str, list[tuple[bytes, bytes | None]]]:
    by_topic: dict[str, list[tuple[bytes, bytes | None]]] = {}
    for topic, key, value in outputs:
        by_topic.setdefault(topic, []).append((key, value))
    return by_topic
