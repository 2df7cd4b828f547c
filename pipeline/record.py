"""`record`: whatever is in the topics becomes rows of ClickHouse. A plain consumer, large inserts, no state but the group's offsets.

    raw topics      ->  decoded  ->  event rows
                    ->  refused  ->  dead-letters
                    ->  under a key that is not their cookie's  ->  event-copies
    derived topics  ->  session, contact, link and owner rows
    dead-letters    ->  failed rows
    then, for the events that arrived: those with several copies are merged (adapters/event_copies.py), and those that retract or are
    retracted are marked, and made known to their cookies (adapters/retracting.py)

The order of every flush: insert, dead letters flushed, copies settled, and only then commit. Rows are idempotent, so whatever is done
twice (a crash before the commit, partitions that move) changes nothing. ClickHouse away: wait and say so, and stay in the group.
"""

import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import polars as pl
from clickhouse_driver import Client
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipeline import garbage
from pipeline.adapters import (
    clickhouse,
    dead_letters,
    deleted,
    derived_rows,
    event_copies,
    event_rows,
    failed_rows,
    kafka,
    recorded_topics,
    retracting,
    topics,
)
from pipeline.adapters.avro import Registry
from pipeline.adapters.ceiling import Ceiling
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.adapters.patience import Complaints, PatientClickHouse, PatientProducer, StoppedError, until_there
from pipeline.adapters.pending import Pending, Place
from pipeline.adapters.raw_batch import EventColumns
from pipeline.agents.health import HealthFile
from pipeline.core.outcomes import Refused
from pipeline.errors import UserError
from pipeline.leaving import leave_at_last
from pipeline.logs import logger
from pipeline.replay import registry, views
from pipeline.settings import Settings

PART = "record"
TOPICS = (*RAW_TOPICS.values(), *derived_rows.TABLES, dead_letters.TOPIC)

CHECK_EVENTS = 50_000
CHECK_SHARE = 40
"""Under load copies are looked for once per so many events or, if that is more, this share of all: a look may have to read all ids ..."""
CHECK_S = 60.0
"""... but at the latest after so long: until then nothing is committed, and copies that differ are seen as two rows."""

_CONSUME = 10_000
_CONSUME_S = 0.05
_HEALTH_EVERY_S = 1.0
_REACH_S = 5.0
_CONSUMER = {
    "partition.assignment.strategy": "roundrobin",  # see 0011: cooperative rebalances are unsafe for static members
    "session.timeout.ms": 12_000,
    "heartbeat.interval.ms": 3_000,
    "queued.max.messages.kbytes": 32_768,
    "auto.offset.reset": "error",  # see deleted.Beginnings
    "topic.metadata.refresh.interval.ms": 10_000,  # a topic that we may not see any more at a rebalance is otherwise missed for 5 minutes
    "fetch.min.bytes": 1 << 20,  # few large fetches; none waits longer for more than the next line says
    "fetch.wait.max.ms": 100,
}

log = logger(PART)


def run(settings: Settings) -> int:
    """Records until SIGTERM or SIGINT, then finishes what it has; the exit code.

    UserError if something outside must change; any other exception is a bug of ours.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_leave_after, args=(stop,), daemon=True).start()
    try:
        recorder(settings, stop).run()
    except StoppedError:
        log.warning("stopped before ClickHouse or Kafka came back: what was not committed will be recorded again")
    log.info("stopped")
    return 0


def _leave_after(stop: threading.Event) -> None:
    """ClickHouse may be silent, or at work, for longer than a stop may take."""
    stop.wait()
    leave_at_last(0)


def recorder(settings: Settings, stop: threading.Event) -> "Recorder":
    """A recorder whose neighbours are there: waits for Kafka and ClickHouse, checks the topics, and brings the tables up to date."""
    complaints = Complaints(log)
    until_there(lambda: kafka.reach(settings, _REACH_S), kafka.AwayError, stop, complaints)
    until_there(lambda: _migrate(settings), clickhouse.AwayError, stop, complaints)
    topics.check_topics(settings, PART)
    until_there(lambda: _check_recorded(settings), clickhouse.AwayError, stop, complaints)
    return Recorder(settings, Registry(settings), stop, [elder.database for elder in registry.elders(settings)])


def _migrate(settings: Settings) -> None:
    with _away(settings):
        views.migrate(settings)


def _check_recorded(settings: Settings) -> None:
    with _away(settings):
        recorded_topics.check(clickhouse.connect(settings), settings)


@contextmanager
def _away(settings: Settings) -> Iterator[None]:
    """AwayError also if the server goes away in the middle of something."""
    try:
        yield
    except Exception as error:
        if clickhouse.is_away(error) and (away := clickhouse.user_error(settings, error)) is not None:
            raise away from None
        raise


class Inserted(NamedTuple):
    """What was inserted: how many events there were; what was refused; events that must be sent to their cookie."""

    events: int
    refused: list[tuple[Message, Refused]]
    astray: list[event_copies.Published]


class Recorder:
    """One member of the group."""

    def __init__(self, settings: Settings, registry: Registry, stop: threading.Event, elders: Sequence[str] = ()) -> None:
        """`elders`: databases of earlier generations, which may have buried what we are going to refuse."""
        self._settings = settings
        self._elders = elders
        self._registry = registry
        self._stop = stop
        self._complaints = Complaints(log)
        member = kafka.member_name(settings, PART)
        static = {"group.instance.id": member} if member else {}
        self._troubles: list[KafkaError] = []
        """Of the connections, since the last read: librdkafka tells them beside the records."""
        self._consumer: Consumer = kafka.consumer(settings, PART, **_CONSUMER, **static, error_cb=self._troubles.append)
        self._producer = PatientProducer(settings, self._pause, self._complaints)
        self._clickhouse = PatientClickHouse(settings, self._pause, self._complaints)
        self._logical = {kafka.topic_name(settings, topic): topic for topic in TOPICS}
        self._pending = Pending()
        self._written: dict[Place, int] = {}
        """Offsets to commit once copies are settled."""
        self._beginnings = deleted.Beginnings(settings, PART, lambda topic: _made_anew(self._logical[topic]))
        self._check = _check_number()
        self._unchecked = 0
        """Events written under that number ..."""
        self._unchecked_since = 0.0
        """... from then on, by the monotonic clock."""
        self._ceiling = Ceiling(settings.dead_letters.ceiling)
        self.health_file = HealthFile(settings, PART)
        self._health_at = 0.0

    def run(self) -> None:
        """Until `stop`. StoppedError if a neighbour is away then."""
        self._consumer.subscribe(list(self._logical), on_assign=self._beginnings.assign, on_revoke=self._on_lost, on_lost=self._on_lost)
        garbage.what_is_there_stays()
        log.info("ready")
        try:
            while not self._stop.is_set():
                self._read(_CONSUME, _CONSUME_S)
                self._write_if_due()
            self._write()
            self._settle()
            self._commit()
        finally:
            self._consumer.close()
            self._clickhouse.disconnect()
            self.health_file.write()
        self.health_file.remove()

    # Reading

    def _read(self, most: int, seconds: float) -> None:
        messages = self._consumer.consume(most, seconds)
        errors = [error for message in messages if (error := message.error()) is not None]
        for message in messages if errors else ():
            self._on_error(message)
        while self._troubles:
            self._on_trouble(self._troubles.pop(0))
        self._pending.add([message for message in messages if message.error() is None] if errors else messages, time.monotonic())
        self._begin()
        self._report_health()

    def _begin(self) -> None:
        """The partitions that do not know where to; if Kafka is away, after the next read."""
        try:
            self._beginnings.begin(self._consumer)
        except kafka.AwayError as error:
            self._complaints.say("waiting for Kafka", error=str(error))

    def _on_error(self, message: Message) -> None:
        error = message.error()
        if error is None:
            return
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - its public name
            self._beginnings.not_begun(message)
            return
        if (damage := kafka.damage(message)) is not None:
            raise damage
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise UserError(f"{error.str()}: make the topics with `python -m pipeline topics create`")
        if error.code() in kafka.PERMISSIONS | kafka.LOCKED_OUT:
            raise kafka.user_error(self._settings, error, kafka.reading(self._settings, error, message.topic(), PART))
        if (ended := kafka.ended(self._settings, error)) is not None:
            raise ended
        self._complaints.say("waiting for Kafka", error=error.str())

    def _on_trouble(self, trouble: KafkaError) -> None:
        """UserError if waiting does not mend it: a broker that does not let us in any more looks much like one that is away."""
        if (ended := kafka.ended(self._settings, trouble)) is not None:
            raise ended
        if trouble.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - its public name
            self._complaints.say("waiting for Kafka", error=trouble.str())
        if trouble.code() not in kafka.LOCKED_OUT:
            return
        try:
            kafka.reach(self._settings, _REACH_S)
        except kafka.AwayError as error:
            self._complaints.say("waiting for Kafka", error=str(error))

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Partitions are somebody else's now, who begins where we committed."""
        places = {(partition.topic, partition.partition) for partition in partitions}
        self._pending.drop(places)
        self._written = {place: offset for place, offset in self._written.items() if place not in places}

    def _pause(self, seconds: float) -> None:
        """Lets time pass without leaving the group; a few records may come meanwhile."""
        until = time.monotonic() + seconds
        while True:
            if self._stop.is_set():
                raise StoppedError
            self._read(1, 0.1)
            if time.monotonic() >= until:
                return

    # Writing

    def _write_if_due(self) -> None:
        began = time.monotonic()
        if self._pending.is_due(began):
            under_load = self._pending.is_full()
            self._write()
            if under_load and self._may_check_later():
                return
        elif self._pending.rows or not self._written:
            return
        self._settle()
        self._commit()
        self._pending.took(time.monotonic() - began)

    def _write(self) -> None:
        """Pending records into their tables; refused ones among the dead letters."""
        if not self._pending.rows:
            return
        inserted = self._clickhouse.call(self._insert)
        self._written |= self._pending.ends()
        self._pending.clear()  # now: while we wait for a server below, we read on, and that is not inserted
        self._ceiling.check(inserted.events, [refusal for _, refusal in inserted.refused])
        for message, refusal in self._unburied(inserted.refused):
            self._bury(message, refusal)
        self._publish(inserted.astray)
        self._unchecked_since = self._unchecked_since if self._unchecked else time.monotonic()
        self._unchecked += inserted.events
        self.health_file.health.add(events=inserted.events, refused=len(inserted.refused))

    def _insert(self, client: Client) -> Inserted:
        """Everything that is pending; events of all types in one INSERT, since each costs ClickHouse tens of milliseconds."""
        done = Inserted(0, [], [])
        blocks: list[event_rows.Columns] = []
        for name, messages in self._pending.messages.items():
            topic = self._logical[name]
            if topic in derived_rows.TABLES:
                keys, values, offsets = zip(*((m.key(), m.value(), m.offset()) for m in messages), strict=True)
                derived_rows.insert(client, topic, keys, values, offsets, self._registry.decode_columns)
            elif topic == dead_letters.TOPIC:
                failed_rows.insert(client, failed_rows.of_letters(messages, self._settings.generation))
            else:
                also = self._decode_events(topic, messages, blocks)
                done = Inserted(done.events + also.events, done.refused + also.refused, done.astray + also.astray)
        if blocks:
            event_rows.insert(client, event_rows.together(blocks))
        return done

    def _decode_events(self, topic: str, messages: list[Message], blocks: list[event_rows.Columns]) -> Inserted:
        """Adds what is to be inserted to `blocks`."""
        keys, values = [message.key() for message in messages], [message.value() for message in messages]
        decoded = self._registry.decode_events(values, topic)
        partitions = [message.partition() for message in messages]
        offsets = [message.offset() for message in messages]
        for batch in decoded.batches:
            places = [partitions[at] for at in batch.rows], [offsets[at] for at in batch.rows]
            blocks.append(event_rows.arrivals(batch, *places, check=self._check))  # type: ignore[arg-type]
        refused = [(messages[at], refusal) for at, refusal in decoded.refused]
        strays = [event for batch in decoded.batches for event in astray(batch, keys, values)]
        return Inserted(len(messages) - len(refused), refused, strays)

    def _unburied(self, refused: list[tuple[Message, Refused]]) -> list[tuple[Message, Refused]]:
        """Those that no earlier generation has among the dead letters, which are common to all."""
        if not (refused and self._elders):
            return refused
        ids = [f"{self._logical[str(message.topic())]}:{message.partition()}:{message.offset()}" for message, _ in refused]
        known = self._clickhouse.call(lambda client: failed_rows.known(client, self._elders, ids))
        return [refusal for id_, refusal in zip(ids, refused, strict=True) if id_ not in known]

    def _bury(self, message: Message, refusal: Refused) -> None:
        """Among the dead letters, byte for byte."""
        letter = dead_letters.bury(refusal, PART, message, self._logical[str(message.topic())], self._settings.generation)
        self._producer.produce(dead_letters.TOPIC, *letter)

    # Settling copies, committing

    def _may_check_later(self) -> bool:
        if self._unchecked < CHECK_EVENTS:
            return True
        if time.monotonic() - self._unchecked_since > CHECK_S:
            return False
        ((known,),) = self._clickhouse.call(lambda client: client.execute("SELECT count() FROM event_copies"))
        return self._unchecked < int(known) // CHECK_SHARE

    def _settle(self) -> None:
        """One row for each event that was written, whatever copies it has, and a mark for each that is retracted."""
        if self._unchecked:
            encode = self._registry.encode_event
            self._clickhouse.call(lambda client: event_copies.settle(client, self._check, encode, self._publish))
            self._clickhouse.call(lambda client: retracting.settle(client, self._check, encode, self._publish))
            self._check = _check_number()
            self._unchecked = 0

    def _publish(self, records: Iterable[event_copies.Published]) -> None:
        for record in records:
            self._producer.produce(*record)
        self._producer.flush()

    def _commit(self) -> None:
        """What fails to be committed is committed with the next flush, or recorded again by whoever has the partition then."""
        if not self._written:
            return
        moment = str(time.time_ns() // 1_000_000)
        offsets = [TopicPartition(topic, partition, offset, moment) for (topic, partition), offset in self._written.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exception:
            if (ended := kafka.ended(self._settings, exception.args[0])) is not None:
                raise ended from None
            self._complaints.say("offsets not committed, trying again", error=exception.args[0].str())
            return
        for (topic, partition), offset in self._written.items():
            self.health_file.health.committed(partition, self._logical[topic], offset - 1)
        self._written = {}

    def _report_health(self) -> None:
        now = time.monotonic()
        if now - self._health_at >= _HEALTH_EVERY_S:
            self._health_at = now
            self.health_file.write()


def _made_anew(topic: str) -> str | None:
    """Why a topic that was made anew cannot be recorded; None if it can: rows of events do not depend on where they stood."""
    return recorded_topics.WHY if topic in derived_rows.TABLES else None


def astray(batch: EventColumns, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Iterator[event_copies.Published]:
    """Events that their producer put under another key than their cookie's, where sessions do not look for them.

    `keys` and `values` are those of all records that the batch was decoded from.
    """
    cookies = batch.cookies()
    of_records = pl.Series([keys[at] for at in batch.rows], dtype=pl.Binary)
    for place in (cookies.is_not_null() & cookies.ne_missing(of_records)).arg_true():
        yield event_copies.Published("event-copies", cookies[place], values[batch.rows[place]])


def _check_number() -> int:
    """Names the arrivals between two looks for copies; only has to differ from those of other processes of the day."""
    return time.time_ns() // 1000 << 10 | threading.get_native_id() % 1024
