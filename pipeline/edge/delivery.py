"""Accepted means safe: a record is in Kafka on all replicas, or fsynced in the spool, before its sender has an answer.

While Kafka answers, records go to it directly. When it does not take one in time it counts as away: records go to the spool,
those in flight too (Kafka may have had one all the same; an event counts once), and the spool is drained, oldest first, until
Kafka takes them. Everything here runs on one event loop; only the disk is left to a thread.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from pipeline.adapters import kafka
from pipeline.adapters.avro import Registry
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.adapters.patience import Complaints
from pipeline.core.events import Event
from pipeline.edge import bugs
from pipeline.edge.spool import DamageError, Record, Spool, SpoolFullError, read
from pipeline.logs import logger
from pipeline.settings import Settings

__all__ = ["Delivery", "SpoolFullError"]

TIMEOUT_MS = 5_000
"""How long Kafka may take for a record before it counts as away."""
LINGER_MS = 10
"""How long a record may wait for others of its partition: requests to Kafka cost the more the fewer records they have."""
_LISTEN_EVERY_S = 0.002
_TRY_EVERY_S = 1.0
_DRAINED_AT_ONCE = 2_000

Then = Callable[[int], None]
"""Hears of how many of some records it is not known that they are safe; 0 is good. What it raises is a bug, which costs its own answer."""

log = logger("edge")


class Delivery:
    """The way of this process's records. Make it, `start` it on the loop, `stop` it."""

    def __init__(self, settings: Settings, spool: Spool) -> None:
        self._registry = Registry(settings)
        self._topics = {topic: kafka.topic_name(settings, topic) for topic in RAW_TOPICS.values()}
        self._complaints = Complaints(log)
        self._servers = settings.kafka.bootstrap_servers
        self._producer = kafka.producer(
            settings,
            **{
                "linger.ms": LINGER_MS,
                "delivery.timeout.ms": TIMEOUT_MS,
                "queue.buffering.max.messages": 100_000,
                "queue.buffering.max.kbytes": 64 << 10,
                "message.max.bytes": 2 << 20,
                "error_cb": self._note,
            },
        )
        self.spool = spool
        self.away = False
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._waiting: list[tuple[Sequence[Record], asyncio.Future[None]]] = []
        self._has_waiting = asyncio.Event()
        self._in_flight = 0
        self._spooling: set[asyncio.Task[None]] = set()
        self._has_flight = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(work()) for work in (self._listen, self._write, self._drain)]
        for task in self._tasks:
            task.add_done_callback(_ended)

    async def stop(self) -> None:
        """Everything accepted is safe already; what is still on its way gets its answer first."""
        while self._in_flight or self._waiting or self._spooling:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._disk.shutdown()
        self.spool.close()

    def record(self, event: Event) -> Record:
        key = event.event_id if event.utk is None else event.utk
        return Record(RAW_TOPICS[event.type], key.encode(), self._registry.encode_event(event))

    async def accept(self, events: Sequence[Event]) -> None:
        """Returns when all events are safe. SpoolFullError if they cannot be; then the sender must send them again."""
        records = [self.record(event) for event in events]
        if not self.away and await self._produced(records):
            return
        await self._spooled(records)

    def hand_over(self, events: Sequence[Event], then: Then) -> None:
        """The same for whoever does not wait: `then` hears of it on this loop, after the call. Not while Kafka is away."""
        records = [self.record(event) for event in events]
        self._produce(records, partial(self._landed, records, then))

    def _landed(self, records: Sequence[Record], then: Then, lost: int) -> None:
        if lost == 0:
            then(0)
        else:
            task = asyncio.create_task(self._spooled_then(records, then))
            self._spooling.add(task)
            task.add_done_callback(self._spooling.discard)

    async def _spooled_then(self, records: Sequence[Record], then: Then) -> None:
        try:
            await self._spooled(records)
        except SpoolFullError:
            _tell(then, len(records))
        else:
            _tell(then, 0)

    async def _spooled(self, records: Sequence[Record]) -> None:
        """Returns when the records are on disk, since Kafka is away."""
        self.away = True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((records, future))
        self._has_waiting.set()
        await future

    async def _produced(self, records: Sequence[Record]) -> bool:
        """Whether Kafka has acknowledged all of the records; where not, it may have some of them."""
        landed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._produce(records, lambda lost: None if landed.done() else landed.set_result(lost))
        return await landed == 0

    def _produce(self, records: Sequence[Record], then: Then) -> None:
        """`then` hears, on the loop, how many of the records Kafka has not acknowledged."""
        flight = _Flight(len(records), self, then)
        self._in_flight += 1
        self._has_flight.set()
        for record in records:
            try:
                self._producer.produce(self._topics[record.topic], record.value, record.key, on_delivery=flight.landed)
            except (BufferError, KafkaException) as error:
                flight.landed(error)

    def over(self, lost: int) -> None:
        """A flight is over."""
        self._in_flight -= 1
        if lost:
            self._complaints.say("Kafka does not take records: they wait in the spool", servers=self._servers, records=lost)

    async def _listen(self) -> None:
        """Hears of deliveries; on the loop's own thread, since waking it from another costs more than asking."""
        while True:
            if not self._in_flight:
                self._has_flight.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._has_flight.wait(), 0.5)
            self._producer.poll(0)
            await asyncio.sleep(_LISTEN_EVERY_S)

    async def _write(self) -> None:
        """One write and one fsync for all that wait for it."""
        while True:
            await self._has_waiting.wait()
            self._has_waiting.clear()
            batch, self._waiting = self._waiting, []
            if not batch:
                continue
            try:
                await self._on_disk(self.spool.append, [record for records, _ in batch for record in records])
            except SpoolFullError:
                _settle(batch, SpoolFullError())
            else:
                _settle(batch, None)

    async def _drain(self) -> None:
        """Brings the spool to Kafka, segment by segment; a segment is removed when Kafka has all of it."""
        while True:
            try:
                goes_on = await self._drain_one()
            except OSError as error:  # too many open files, a disk that fails: it may pass, and what is spooled stays
                self._complaints.say("the spool cannot be read", error=error.strerror)
                goes_on = False
            if not goes_on:
                await asyncio.sleep(_TRY_EVERY_S)

    async def _drain_one(self) -> bool:
        """The oldest segment; whether there may be more to do at once."""
        segment = await self._on_disk(self.spool.oldest)
        if segment is not None and not await self._bring(segment):
            return False
        self.away = False
        return segment is not None

    async def _bring(self, segment: Any) -> bool:
        records = read(segment)
        damaged = False
        while True:
            try:
                some = await self._on_disk(lambda: list(islice(records, 1 if self.away else _DRAINED_AT_ONCE)))
            except DamageError:
                damaged = True
                break
            if not some:
                break
            if not await self._produced(some):
                return False
            self.away = False
        if damaged:
            log.error("a segment of the spool is damaged and was set aside", file=str(segment.with_suffix(".damaged")))
        await self._on_disk(self.spool.set_aside if damaged else self.spool.remove, segment)
        return True

    async def _on_disk(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._disk, partial(work, *arguments))

    def _note(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - librdkafka's own errors begin with _
            self.away = True


class _Flight:
    """Records on their way together, until it is known of each whether Kafka has it."""

    __slots__ = ("_delivery", "_left", "_lost", "_then")

    def __init__(self, count: int, delivery: Delivery, then: Then) -> None:
        self._left = count
        self._lost = 0
        self._delivery = delivery
        self._then = then

    def landed(self, error: object, _: object = None) -> None:
        if error is not None:
            self._lost += 1
        self._left -= 1
        if self._left == 0:
            self._delivery.over(self._lost)
            _tell(self._then, self._lost)


def _tell(then: Then, lost: int) -> None:
    """Librdkafka's callbacks must not raise: `poll` would raise it again, which ends the process and with it everybody's answers."""
    try:
        then(lost)
    except Exception as error:  # noqa: BLE001 - the outermost frame of an answer
        bugs.note(error)


def _ended(task: asyncio.Task[None]) -> None:
    """A bug of ours ends the process: what was accepted is safe, and without this task nothing more could be."""
    if not task.cancelled() and (error := task.exception()) is not None:
        bugs.note(error)
        os._exit(1)


def _settle(batch: Sequence[tuple[Sequence[Record], asyncio.Future[None]]], error: Exception | None) -> None:
    for _, future in batch:
        if future.done():  # its request was cancelled; the record may stay
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
