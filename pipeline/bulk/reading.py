"""First stage: raw records -> event rows in ClickHouse; evidence under its portal; what sessions need, spilled by cookie.

It does to each record what `record` and the route of `identify` do, and nothing that needs other records.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from clickhouse_driver import Client
from confluent_kafka import Message

from pipeline.adapters import dead_letters, event_rows, failed_rows
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.adapters.failed_rows import Failed
from pipeline.adapters.raw_batch import Decoded
from pipeline.agents.identify import EVIDENCE, EVIDENCE_SOURCES, route_key
from pipeline.agents.sessionize import SOURCES
from pipeline.bulk import activity
from pipeline.bulk.crew import report
from pipeline.bulk.neighbours import Neighbours, batches, neighbours
from pipeline.bulk.spill import Spill
from pipeline.bulk.workspace import Plan
from pipeline.record import astray, letter_headers


class Read(NamedTuple):
    """What was in a partition."""

    messages: int
    bytes: int


def take_letters(plan: Plan, partition: int, until: int) -> dict[str, list[int]]:
    """Dead letters -> failed rows. Which raw records are among them: offsets by `topic:partition`."""
    buried: dict[str, list[int]] = defaultdict(list)
    with neighbours(plan.settings) as at:
        for messages in batches(plan.settings, (dead_letters.TOPIC, partition), 0, until):
            rows = [failed_rows.dead_letter(m.key(), m.value(), m.headers()) for m in messages]  # type: ignore[arg-type]
            at.clickhouse.call(partial(_insert_failed, rows))
            for row in rows:
                if row.topic in RAW_TOPICS.values() and row.offset is not None:
                    buried[f"{row.topic}:{row.partition}"].append(row.offset)
    return buried


def read_partition(plan: Plan, topic: str, partition: int, buried: Sequence[int]) -> Read:
    """A partition of a raw topic; `buried` are offsets that are among the dead letters already."""
    place = topic, partition
    spill = Spill(plan.spill(f"{topic}-{partition}"), "utk", plan.buckets(partition))
    known, done = frozenset(buried), Read(0, 0)
    with neighbours(plan.settings) as at:
        for messages in batches(plan.settings, place, plan.start.get(place, 0), plan.until[place]):
            decoded = at.registry.decode_events([message.value() for message in messages], topic)
            _store(at, decoded, messages)
            _pass_on(at, topic, decoded, messages)
            _refuse(at, topic, decoded, messages, known)
            _keep(spill, topic, decoded, messages)
            size = sum(map(len, messages))
            done = Read(done.messages + len(messages), done.bytes + size)
            report(len(messages), size)
        at.producer.flush()
    return done


def read_copies(plan: Plan, partition: int, until: int) -> None:
    """Copies that sessions would not see under their own keys, spilled with the rest of their cookies."""
    topic = "event-copies"
    spill = Spill(plan.spill(f"{topic}-{partition}"), "utk", plan.buckets(partition))
    with neighbours(plan.settings) as at:
        for messages in batches(plan.settings, (topic, partition), 0, until):
            _keep(spill, topic, at.registry.decode_events([message.value() for message in messages], topic), messages)


def _store(at: Neighbours, decoded: Decoded, messages: Sequence[Message]) -> None:
    def insert(client: Client) -> None:
        for batch in decoded.batches:
            partitions, offsets = zip(*((messages[row].partition(), messages[row].offset()) for row in batch.rows), strict=True)
            event_rows.insert(client, event_rows.arrivals(batch, partitions, offsets, check=0))

    at.clickhouse.call(insert)


def _pass_on(at: Neighbours, topic: str, decoded: Decoded, messages: Sequence[Message]) -> None:
    """Evidence to its portal, and events under a wrong key to their cookie."""
    for batch in decoded.batches:
        for published in astray(batch, messages):
            at.producer.produce(*published)
        if topic in EVIDENCE_SOURCES:
            for row, event in zip(batch.rows, batch.events(), strict=True):
                at.producer.produce(EVIDENCE, route_key(event), messages[row].value())


def _refuse(at: Neighbours, topic: str, decoded: Decoded, messages: Sequence[Message], buried: frozenset[int]) -> None:
    """Among the failed events, and among the dead letters if they are not there yet."""
    failed = []
    for row, refused in decoded.refused:
        message = messages[row]
        headers = letter_headers(topic, message, refused)
        failed.append(failed_rows.dead_letter(message.key(), message.value(), headers))
        if message.offset() not in buried:
            at.producer.produce(dead_letters.TOPIC, message.key(), message.value(), headers)
    at.clickhouse.call(partial(_insert_failed, failed))


def _insert_failed(rows: Sequence[Failed], client: Client) -> None:
    failed_rows.insert(client, rows)


def _keep(spill: Spill, topic: str, decoded: Decoded, messages: Sequence[Message]) -> None:
    if topic not in SOURCES:
        return
    keys, values = [message.key() for message in messages], [message.value() for message in messages]
    for batch in decoded.batches:
        spill.write(activity.rows(batch, keys, values))
