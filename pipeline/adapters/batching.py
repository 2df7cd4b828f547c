"""A Faust transport that hands agents batches, not messages: `batched://host:port`.

Faust spends about 100 us on a message before an agent sees it. Here a stream yields one `Batch` for each fetch from one
partition, so that cost is paid once for thousands of records. Groups, assignment and rebalances stay Faust's and
aiokafka's; this module replaces a few of their hooks, and each for a reason:

| hook | why |
|---|---|
| `_create_worker_consumer` | Faust waits 1.5 s for idle partitions, and does not keep partition p of several topics together |
| `_fetch_records` | records become one `Batch` per partition, in the thread that fetches |
| `_seek_to_committed` | to know whether what comes next follows what was read: aiokafka jumps over deleted records without a word |
| `_consumer_record` (aiokafka) | records stay as they were read: to make other objects of them takes as long as to read them |
| `_to_message`, `_new_offset`, `_add_gap` | what is committed is the end of a batch, strictly in order of delivery |
| `ack`, `wait_empty` | a batch that is settled is never waited for; Faust's own wait collects garbage every second |
| `on_partitions_revoked` | Faust forgets the acks before it waits for the streams; we wait and commit first |
| `seek_to_committed` | a partition without a committed offset goes back to its beginning, too |
| `_commit` (thread) | a commit that fails is tried again; Faust's would end the worker |
| `_commit_offsets` | what failed counts as not committed; and Faust draws a table of the offsets each time, for a log that nobody reads |
| `_fetch_records`, `_commit` | a right that was taken away ends the worker with a message; Faust would wait for ever |
| `close` | Faust closes the connections when partitions move while it stops: those by which we leave the group |
| `_get_conn` (aiokafka) | so does a password that is no longer ours: to aiokafka a broker that refuses it is one that is away |
| `_metadata_update` (aiokafka) | one that fails is tried again: aiokafka waits five minutes, and topics that it does not know rest |
| `on_crash` (thread) | Faust prints the exception, with what it says, past the log |
| `on_buffer_full`, `verify_event_path`, `highwater` | per-message bookkeeping that is wrong for batches |

They are private names, so the versions of both libraries are pinned and `check_hooks` runs at every start.

Nothing is lost on the way: the thread that fetches numbers the batches of a partition, and `Consumer.is_due` refuses to go on
if one is missing (Faust drops messages in several places, counting on a later seek).
"""

import asyncio
import sys
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import aiokafka
import aiokafka.errors
import faust
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport import drivers
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from pipeline.adapters import deleted, kafka
from pipeline.adapters.hooks import check_hooks
from pipeline.adapters.leave_group import leave_group
from pipeline.errors import UserError
from pipeline.logs import logger

SCHEME = "batched"
FETCH_WAIT_MS = 100
"""How long the broker may hold a fetch that finds less than `FETCH_ENOUGH_BYTES`; so also what waiting for more can cost a record."""
LOADED_RECORDS = 500
"""A fetch that finds so many says that there is load: the next one may wait longer ..."""
LOADED_FETCH_WAIT_MS = 400
"""... so that there are fewer and larger batches: Faust takes a millisecond for each, however small."""
FETCH_ENOUGH_BYTES = 1 << 20
"""A fetch that finds so much is answered at once. Batches that are worth their transaction make the whole several times as fast."""
FETCH_BYTES = 4 << 20
"""Most bytes (as stored, so compressed) of one partition in one fetch; so also of a batch."""
RESPONSE_BYTES = 16 << 20
"""Most bytes of one answer of a broker, over all partitions."""
BUFFERED_BATCHES = 2
"""Batches that wait for the agent; behind them the fetching thread waits too."""
_COMPLAIN_EVERY_S = 5.0
_ASK_EVERY_S = 5.0
_ASK_S = 3.0
"""Longest time to wait for an answer: a worker that is asked to stop meanwhile waits with it."""
_UPDATE_AGAIN_S = 1.0

NOT_ALLOWED = (aiokafka.errors.TopicAuthorizationFailedError, aiokafka.errors.GroupAuthorizationFailedError)

log = logger("batching")


class LostBatchError(RuntimeError):
    """A batch was fetched and never arrived: going on would skip its records for good."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition in the order of their offsets, as parallel lists, never empty. Keys and values are raw bytes."""

    topic: str
    """Its logical name, as in `topics/`."""
    partition: int
    offsets: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamp: int
    """Kafka's of the last record, in epoch milliseconds; it says when the record was published, never when something happened."""
    generation: int
    """Of the consumer group, when the batch was fetched."""
    era: int = 0
    """Grows whenever this consumer goes back to the committed offsets."""
    number: int = 0
    """0, 1, 2 ... per partition and era."""
    gone: int = 0
    """So many records before it were deleted before anybody read them."""

    def __len__(self) -> int:
        return len(self.offsets)


class Transport(driver.Transport):
    """Faust's Kafka transport with our consumer."""


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that fetches, commits, and keeps the membership alive, whatever the agent does meanwhile."""

    era = 0
    _numbers: dict[TP, int]
    _due: dict[TP, int]
    """The offset after the last record that was fetched, or committed."""
    _complained_at = 0.0
    _asked_at = 0.0
    _asking: asyncio.Task[None] | None = None
    """Kept, so that it is not collected while it runs."""

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """In the log, which has places only."""
        log.error("the thread that fetches has ended", exc_info=sys.exc_info()[1])

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        consumer = aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[self.app.assignor],  # Faust's own: partition p of all topics goes to one worker, and stays
            enable_auto_commit=False,
            auto_offset_reset=conf.consumer_auto_offset_reset,
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_bytes=RESPONSE_BYTES,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            fetch_min_bytes=FETCH_ENOUGH_BYTES,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            check_crcs=conf.broker_check_crcs,
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            isolation_level="read_committed",
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )
        client = consumer._client  # noqa: SLF001  # see hooks.py
        client._get_conn = self._doubting(client._get_conn)  # noqa: SLF001
        insist_on_metadata(client)
        return consumer

    def _doubting(self, connect: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """`connect`, which gives None whatever is wrong. Then we ask why, now and then: the worker ends if waiting would not mend it."""

        async def connect_or_ask(*args: Any, **kwargs: Any) -> Any:
            connection = await connect(*args, **kwargs)
            now = time.monotonic()
            if connection is None and now - self._asked_at > _ASK_EVERY_S:
                self._asked_at = now
                self._asking = asyncio.create_task(self._end_if_locked_out())
            return connection

        return connect_or_ask

    async def _end_if_locked_out(self) -> None:
        try:
            await asyncio.to_thread(kafka.reach, self.app.settings, _ASK_S)  # type: ignore[attr-defined]  # a BatchApp
        except kafka.AwayError:
            pass  # it may come back
        except UserError as error:
            self.app.on_refused(error)  # type: ignore[attr-defined]

    async def _fetch_records(self, *args: Any, **kwargs: Any) -> dict[TP, list[Batch]]:
        """One batch for each partition that has records. Group generation, era and number are those of the moment of fetching."""
        self._end_if_refused(getattr(self._ensure_consumer()._coordinator, "_pending_exception", None))  # noqa: SLF001
        try:
            fetched = await super()._fetch_records(*args, **kwargs)
        except aiokafka.errors.CorruptRecordException as error:
            raise kafka.DamagedError(
                f"A record is damaged on the broker's disk: {error}. Restore it, from a replica or a backup."
            ) from None
        except aiokafka.errors.KafkaError as error:
            self._end_if_refused(error)
            raise
        self._pace(sum(map(len, fetched.values())))
        gone = {tp: await self._gone(TP(tp.topic, tp.partition), records[0].offset) for tp, records in fetched.items()}
        return {TP(tp.topic, tp.partition): [self._batch(TP(tp.topic, tp.partition), records, gone[tp])] for tp, records in fetched.items()}

    def _pace(self, records: int) -> None:
        fetcher = self._ensure_consumer()._fetcher  # noqa: SLF001  # see hooks.py
        fetcher._fetch_max_wait_ms = LOADED_FETCH_WAIT_MS if records >= LOADED_RECORDS else FETCH_WAIT_MS  # noqa: SLF001

    async def _gone(self, tp: TP, found: int) -> int:
        """How many records before offset `found`, the next one that there is, were deleted; control records do not count."""
        due = self._due.get(tp, found)
        if found <= due:
            return 0
        begin: int = (await self._ensure_consumer().beginning_offsets([TopicPartition(*tp)]))[TopicPartition(*tp)]
        return max(min(begin, found) - due, 0)

    def _batch(self, tp: TP, records: list[Any], gone: int) -> Batch:
        number = self._numbers.get(tp, 0)
        self._numbers[tp] = number + 1
        self._due[tp] = records[-1].offset + 1
        return Batch(
            topic=self.app.logical_name(tp.topic),  # type: ignore[attr-defined]  # a BatchApp
            partition=tp.partition,
            offsets=[record.offset for record in records],
            keys=[record.key for record in records],
            values=[record.value for record in records],
            timestamp=records[-1].timestamp,
            generation=self.app.consumer_generation_id,
            era=self.era,
            number=number,
            gone=gone,
        )

    def _end_if_refused(self, error: BaseException | None) -> None:
        if isinstance(error, NOT_ALLOWED):
            self.app.on_refused(error)  # type: ignore[attr-defined]  # a BatchApp

    def begin_era(self) -> None:
        """From here on batches come from the committed offsets (or the beginning) on."""
        self.era += 1
        self._numbers = {}
        self._due = {}

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.begin_era()
        await super().on_partitions_assigned(assigned, generation_id)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Back to what is committed, for all partitions that we have."""
        offsets: Mapping[TP, int] = await self.call_thread(self._seek_to_committed, self._ensure_consumer())
        return offsets

    async def _seek_to_committed(self, consumer: aiokafka.AIOKafkaConsumer) -> Mapping[TP, int | None]:
        offsets: Mapping[TP, int | None] = await consumer.seek_to_committed()
        never_committed = [tp for tp, offset in offsets.items() if not offset]
        if never_committed:
            await consumer.seek_to_beginning(*never_committed)
        self.begin_era()
        self._due = {TP(tp.topic, tp.partition): offset for tp, offset in offsets.items() if offset}
        return offsets

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Whether the offsets are committed. If not they are due again at the next interval, unless the partition is gone."""
        consumer = self._ensure_consumer()
        ours = self.assignment()
        due = {TopicPartition(*tp): OffsetAndMetadata(offset, "") for tp, offset in offsets.items() if tp in ours}
        try:
            await consumer.commit(due)
        except aiokafka.errors.KafkaError as error:
            self._end_if_refused(error)
            if time.monotonic() - self._complained_at > _COMPLAIN_EVERY_S:
                self._complained_at = time.monotonic()
                log.warning("offsets not committed, trying again", error=str(error))
            return False
        return True

    def close(self) -> None:
        """Faust calls it, from another thread, when a rebalance meets a worker that stops: nothing to do, `on_thread_stop` closes."""

    async def on_thread_stop(self) -> None:
        """Leaves the group at once, so that others take over now and not after the session timeout."""
        if self._consumer is not None:
            await leave_group(self._consumer)
        await super().on_thread_stop()


def insist_on_metadata(client: AIOKafkaClient) -> None:
    """Has the client ask again soon after an update of its metadata that failed, or that knows nothing of one of its topics.

    aiokafka waits until the next one is due, in five minutes; and if the worker that assigns partitions does not know a topic, nobody
    in the group reads it.
    """
    update = client._metadata_update  # noqa: SLF001

    async def update_or_again(cluster: ClusterMetadata, topics: Collection[str]) -> bool:
        updated: bool = await update(cluster, topics)
        if not updated or any(cluster.partitions_for_topic(topic) is None for topic in topics):
            asyncio.get_running_loop().call_later(_UPDATE_AGAIN_S, client.force_metadata_update)
        return updated

    client._metadata_update = update_or_again  # noqa: SLF001


class Consumer(driver.Consumer):
    """What Faust's conductor and streams see: batches instead of messages."""

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_flight: defaultdict[TP, deque[int]] = defaultdict(deque)
        """Ends of the batches that went to the agent, in that order, from the first that is not acked."""
        self._done: dict[TP, int] = {}
        """Offset after the last batch before which all are acked."""
        self._last: dict[TP, tuple[int, int]] = {}
        """Era and number of the last batch that the agent saw."""

    def _new_consumer_thread(self) -> ConsumerThread:
        thread = ConsumerThread(self, loop=self.loop, beacon=self.beacon)
        thread.begin_era()
        return thread

    def _to_message(self, tp: TP, record: Batch) -> ConsumerMessage:
        end = record.offsets[-1]
        self._in_flight[tp].append(end)
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            offset=end,
            timestamp=record.timestamp / 1000,
            timestamp_type=0,
            headers=None,
            key=None,
            value=record,  # type: ignore[arg-type]  # Faust only hands it on
            checksum=None,
            serialized_key_size=0,
            serialized_value_size=0,
            tp=tp,
            generation_id=record.generation,
        )

    def is_due(self, batch: Batch) -> bool:
        """Whether to work on the batch: False if it is from before a seek, then it comes again.

        LostBatchError if a batch before it is missing; DeletedError if records before it are, unless that is allowed.
        """
        tp = TP(batch.topic, batch.partition)
        era, number = self._last.get(tp, (-1, -1))
        if batch.era < era:
            return False
        if batch.number != (number + 1 if batch.era == era else 0):
            raise LostBatchError(f"{tp.topic}[{tp.partition}]: batch {batch.era}.{batch.number} came after {era}.{number}")
        self._last[tp] = (batch.era, batch.number)
        if batch.gone:
            missing = range(batch.offsets[0] - batch.gone, batch.offsets[0])
            deleted.gone(self.app.settings, self.app.conf.id, tp, missing)  # type: ignore[attr-defined]  # a BatchApp
        return True

    def ack(self, message: Any) -> bool:
        """The batch is worked on: its end may be committed, once those before it may be."""
        acked: bool = super().ack(message)
        self._unacked_messages.discard(message)
        return acked

    def abandon(self, message: Any) -> None:
        """The batch is left alone and never committed: it is somebody else's now, or comes again."""
        self._unacked_messages.discard(message)

    def _new_offset(self, tp: TP) -> int | None:
        in_flight, acked = self._in_flight[tp], self._acked_index[tp]
        committed = self._committed_offset[tp] or 0
        while in_flight and (in_flight[0] in acked or in_flight[0] < committed):
            end = in_flight.popleft()
            acked.discard(end)
            self._done[tp] = max(self._done.get(tp, 0), end + 1)
        self._acked[tp] = sorted(acked)
        return self._done.get(tp)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing to note: offsets may be missing between batches (control records, compaction); ends of batches need no gaps."""

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002  # Faust's signature
        assigned = self.assignment()
        ours = {tp: offset for tp, offset in offsets.items() if tp in assigned}
        committed: bool = bool(ours) and await self._commit(ours)
        if committed:
            self._committed_offset.update(ours)
        return committed

    async def wait_empty(self) -> None:
        """Waits until the agent has settled all that it began, then commits."""
        while self._unacked_messages and not self.should_stop:
            await self._wait_for_ack(timeout=1)
            self._clean_unacked_messages()
        await self.commit()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Nothing new begins, what has begun ends and is committed, and only then the partitions are given up."""
        if not self.app.should_stop:
            self.stop_flow()
            self.app.flow_control.suspend()
            self.app.flow_control.clear()
            await self.wait_empty()
        for tp in revoked:
            self._in_flight.pop(tp, None)
            self._done.pop(tp, None)
        await super().on_partitions_revoked(revoked)

    def on_buffer_full(self, tp: TP) -> None:
        """A full queue makes the fetching side wait by itself; a partition taken out of it would pause for a second."""

    def on_buffer_drop(self, tp: TP) -> None:
        """See `on_buffer_full`."""

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's stall detector counts messages; ours is the health record of the part."""

    def highwater(self, tp: TP) -> int:  # noqa: ARG002
        """Only Faust's monitor asks; the real one may fail while partitions move."""
        return 0


Transport.Consumer = Consumer


class RawSchema(faust.Schema[Any, Any]):
    """Keys and values are nobody's business before the agent: what cannot be decoded must not be acked and dropped."""

    def loads_key(self, app: Any, message: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        return message.key

    def loads_value(self, app: Any, message: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        return message.value


def _as_it_is(_: PartitionRecords, tp: Any, record: Any) -> Any:  # noqa: ARG001  # aiokafka's signature
    """The record of aiokafka's parser, which has the fields of its `ConsumerRecord` but for topic, partition and sizes."""
    return record


def brokers(bootstrap_servers: str) -> list[str]:
    """`a:1,b:2` as broker URLs of this transport."""
    return [f"{SCHEME}://{server.strip()}" for server in bootstrap_servers.split(",")]


def register() -> None:
    """Makes `batched://` known to Faust, after `check_hooks`."""
    check_hooks()
    PartitionRecords._consumer_record = _as_it_is  # noqa: SLF001
    drivers.TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"
