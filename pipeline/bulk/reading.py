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
from pipeline.adapters.ceiling import Ceiling
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
from pipeline.record import PART, astray

COPIES = "event-copies"


class Read(NamedTuple):
    """What was in a partition."""

    messages: int
    bytes: int


def take_letters(plan: Plan, partition: int, until: int) -> dict[str, list[int]]:
    """Dead letters -> failed rows. Which raw records are among them: offsets by `topic:partition`."""
    buried: dict[str, list[int]] = defaultdict(list)
    with neighbours(plan.settings) as at:
        for messages in batches(plan.settings, (dead_letters.TOPIC, partition), 0, until):
            rows = failed_rows.of_letters(messages, plan.settings.generation)
            at.clickhouse.call(partial(_insert_failed, [row for row in rows if row.deleted or not _is_read(plan, row)]))
            for row in rows:
                if row.topic in RAW_TOPICS.values() and row.offset is not None:
                    buried[f"{row.topic}:{row.partition}"].append(row.offset)
    return buried


def _is_read(plan: Plan, row: Failed) -> bool:
    """Whether the rebuild reads the record that failed: then it is refused again, or by now it is an event."""
    if row.topic not in RAW_TOPICS.values() or row.partition is None or row.offset is None:
        return False
    place = row.topic, row.partition
    return plan.start.get(place, 0) <= row.offset < plan.until.get(place, 0)


def read_partition(plan: Plan, topic: str, partition: int, buried: Sequence[int]) -> Read:
    """A partition of a raw topic; `buried` are offsets that are among the dead letters already. CeilingError as in `record`."""
    place = topic, partition
    ceiling = Ceiling(plan.settings.dead_letters.ceiling)
    spill = Spill(plan.spill(f"{topic}-{partition}"), "cookie", plan.buckets(partition))
    known, done = frozenset(buried), Read(0, 0)
    with neighbours(plan.settings) as at:
        for messages in batches(plan.settings, place, plan.start.get(place, 0), plan.until[place]):
            taken = _decoded(at, topic, partition, messages)
            refused = [refusal for _, refusal in taken.decoded.refused]
            ceiling.check(len(messages) - len(refused), refused)
            _store(at, taken)
            _pass_on(at, taken)
            _refuse(plan, at, taken, messages, known)
            if topic in SOURCES:
                _keep(spill, taken)
            size = sum(map(len, messages))
            done = Read(done.messages + len(messages), done.bytes + size)
            report(len(messages), size)
        at.producer.flush()
    spill.close()
    return done


def read_copies(plan: Plan, partition: int, until: int) -> None:
    """Copies that sessions would not see under their own keys, spilled with the rest of their cookies."""
    spill = Spill(plan.spill(f"{COPIES}-{partition}"), "cookie", plan.buckets(partition))
    with neighbours(plan.settings) as at:
        for messages in batches(plan.settings, (COPIES, partition), 0, until):
            _keep(spill, _decoded(at, COPIES, partition, messages))
    spill.close()


class _Taken(NamedTuple):
    """A batch of records of a partition."""

    topic: str
    partition: int
    offsets: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    decoded: Decoded


def _decoded(at: Neighbours, topic: str, partition: int, messages: Sequence[Message]) -> _Taken:
    offsets = [message.offset() for message in messages]
    keys, values = [message.key() for message in messages], [message.value() for message in messages]
    decoded = at.registry.decode_events(values, topic)
    return _Taken(topic, partition, offsets, keys, values, decoded)  # type: ignore[arg-type]


def _store(at: Neighbours, taken: _Taken) -> None:
    blocks = []
    for batch in taken.decoded.batches:
        places = [taken.partition] * len(batch.rows), [taken.offsets[row] for row in batch.rows]
        blocks.append(event_rows.arrivals(batch, *places, check=0))
    if blocks:
        at.clickhouse.call(partial(_insert_events, event_rows.together(blocks)))


def _pass_on(at: Neighbours, taken: _Taken) -> None:
    """Evidence to its portal, and events under a wrong key to their cookie."""
    for batch in taken.decoded.batches:
        for published in astray(batch, taken.keys, taken.values):
            at.producer.produce(*published)
        if taken.topic in EVIDENCE_SOURCES:
            for row, event in zip(batch.rows, batch.events(), strict=True):
                at.producer.produce(EVIDENCE, route_key(event), taken.values[row])


def _refuse(plan: Plan, at: Neighbours, taken: _Taken, messages: Sequence[Message], buried: frozenset[int]) -> None:
    """Among the failed events, and among the dead letters if they are not there yet."""
    failed = []
    for row, refused in taken.decoded.refused:
        letter = dead_letters.bury(refused, PART, messages[row], taken.topic, plan.settings.generation)
        failed.append(failed_rows.dead_letter(*letter))
        if taken.offsets[row] not in buried:
            at.producer.produce(dead_letters.TOPIC, *letter)
    at.clickhouse.call(partial(_insert_failed, failed))


def _insert_events(columns: event_rows.Columns, client: Client) -> None:
    event_rows.insert(client, columns)


def _insert_failed(rows: Sequence[Failed], client: Client) -> None:
    failed_rows.insert(client, rows)


def _keep(spill: Spill, taken: _Taken) -> None:
    for batch in taken.decoded.batches:
        spill.write(activity.rows(batch, taken.keys, taken.values))
