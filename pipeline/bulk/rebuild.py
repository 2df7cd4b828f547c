"""The bulk rebuild: everything that follows from the raw records below given offsets, computed at once, as live workers would have it.

    raw topics ─► read ─┬─► ClickHouse: event rows ─► settle copies ─┬─► event-copies ─────► read_copies ─┐
                        ├─► identity-evidence ◄──────────────────────┘                                    ▼
                        │        └─► identify ─► contacts, identity-links, evidence-owners    spill ─► sessionize ─► sessions
                        └─► spill by cookie ───────────────────────────────────────────────────▲
    then the committed offsets of all parts, so that live workers go on from there

No Faust, no group: plain consumers read each partition from its beginning to its end, in processes beside each other, and what does
not fit into memory waits on disk (workspace.py, spill.py). What it means is computed by the functions of the live workers (`History`,
`Portals`, `event_copies`), each given everything at once. Each stage needs all of the one before it. A unit of work is a partition in a
stage; killed in the middle, it is done again as a whole, which changes nothing that was there.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from clickhouse_driver import Client
from confluent_kafka import Consumer, KafkaException, TopicPartition

from pipeline.adapters import dead_letters, derived_rows, event_copies, kafka, retracting
from pipeline.adapters.changelog import patiently
from pipeline.adapters.contracts import RAW_TOPICS, load_topics
from pipeline.agents import identify, sessionize
from pipeline.bulk.crew import Crew, Unit, crew
from pipeline.bulk.meaning import identify_partition, sessionize_partition
from pipeline.bulk.neighbours import ends, neighbours
from pipeline.bulk.reading import COPIES, Read, read_copies, read_partition, take_letters
from pipeline.bulk.workspace import Place, Plan, check_places, opened
from pipeline.core.policy import Policy
from pipeline.errors import UserError
from pipeline.logs import logger
from pipeline.record import PART as RECORD
from pipeline.settings import Settings

PARTS = ("sessionize", "identify", RECORD)

Progress = Callable[[int, int], None]
"""Hears how many raw messages, of how many bytes, are done by now: one half of each when it is read, the other when its sessions are."""
T = TypeVar("T")

_TIMEOUT_S = 30.0
_LARGE = ("event_rows", "event_copies", "session_rows")
_PARTS_AT_ONCE = 300
"""ClickHouse merges the parts of these tables when there are so many meanwhile: then a row is merged once or not at all, and not at every
size that its part grows to. Readers, of whom there are none yet, would find more parts than usual."""
_SETTING = "min_parts_to_merge_at_once"

log = logger("rebuild")


def rebuild(
    settings: Settings, policy: Policy, until: Mapping[Place, int], progress: Progress, start: Mapping[Place, int] | None = None
) -> None:
    """Makes an empty installation (topics and tables exist, no worker has run) what live workers make of the raw records before `until`.

    `until` and `start` are offsets by topic (logical name) and partition; a partition that `until` does not name is left out. When
    it returns, ClickHouse shows everything and workers that are started go on from `until`. Until they are, it may be called again
    with the same arguments: killed, it goes on. What it keeps on disk for that, `workspace.forget` removes. UserError if the
    installation is not empty, or something outside must change.
    """
    check_places(start or {}, until)
    _refuse_beyond(settings, until)
    with opened(settings, policy, start or {}, until) as plan:
        done = _Done(progress)
        with crew(plan, done.add) as workers:
            _refuse_used(plan)
            _set_merges(plan, f"MODIFY SETTING {_SETTING} = {_PARTS_AT_ONCE}")
            letters = _letters(plan, workers)
            read = _read(plan, workers, letters, done)
            workers.do("settled copies", [Unit("settle copies", settle_copies)])
            _compute(plan, workers, read, done)
            _set_merges(plan, f"RESET SETTING {_SETTING}")
            _commit(plan)
            done.tell()


def settle_copies(plan: Plan) -> int:
    """Makes one row of the copies of each event, marks what is retracted, and passes on what others need; how many events had several."""
    with neighbours(plan.settings) as at:

        def publish(records: Iterable[event_copies.Published]) -> None:
            for record in records:
                at.producer.produce(*record)
            at.producer.flush()

        encode = at.registry.encode_event
        several = at.clickhouse.call(lambda client: event_copies.settle_all(client, encode, publish))
        at.clickhouse.call(lambda client: retracting.settle_all(client, encode, publish))
        return several


class _Done:
    """Counts halves."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._messages = self._bytes = 0

    def add(self, messages: int, size: int) -> None:
        self._messages += messages
        self._bytes += size
        self.tell()

    def tell(self) -> None:
        self._progress(self._messages // 2, self._bytes // 2)


def _refuse_beyond(settings: Settings, until: Mapping[Place, int]) -> None:
    """Nobody knows when records that are still to come will come."""
    reached = ends(settings, sorted({topic for topic, _ in until}))
    for (topic, partition), offset in until.items():
        if offset > reached[topic, partition]:
            raise UserError(
                f"a rebuild up to {topic}[{partition}] {offset} was asked for, and the partition ends at {reached[topic, partition]}: "
                "the topic was made anew, or has lost its end; begin the rebuild again"
            )


def _refuse_used(plan: Plan) -> None:
    """A rebuild over the state of workers that have run would take their offsets back."""
    if plan.is_finished("begun"):
        return
    for part in PARTS:
        for place in _committed(plan.settings, part):
            group = kafka.group_name(plan.settings, part)
            raise UserError(
                f"the group {group} has committed offsets ({place.topic}): a rebuild needs an installation that no worker has used"
            )
    plan.finish("begun", None)


def _committed(settings: Settings, part: str) -> list[TopicPartition]:
    topics = [topic for topic in load_topics().values() if part in topic.consumers]
    places = [TopicPartition(kafka.topic_name(settings, topic.name), number) for topic in topics for number in range(topic.partitions)]
    found = in_group(settings, part, lambda consumer: consumer.committed(places, timeout=_TIMEOUT_S))
    return [place for place in found if place.offset >= 0]


def in_group(settings: Settings, part: str, ask: Callable[[Consumer], T]) -> T:
    """The answer to what is asked as the part's group, which has no members now. Waits while Kafka, or the group's coordinator, is away.

    UserError if the answer is no.
    """
    answers: list[T] = []
    consumer = kafka.consumer(settings, part)
    try:
        patiently(log, lambda: answers.append(ask(consumer)), "asking for the offsets of a part")
    except KafkaException as exception:
        error, group = exception.args[0], kafka.group_name(settings, part)
        if error.code() in kafka.PERMISSIONS:
            raise kafka.forbidden(settings, f"read group {group}") from None
        raise UserError(
            f"Kafka refuses the offsets of group {group}: {error.str()}. If a worker has joined it, end that, and begin again."
        ) from None
    finally:
        consumer.close()
    return answers[0]


def _set_merges(plan: Plan, how: str) -> None:
    """Of the large tables. A server too old to know the setting merges as it always does."""
    known = "SELECT count() FROM system.merge_tree_settings WHERE name = %(name)s"
    with neighbours(plan.settings) as at:
        if at.clickhouse.call(partial(Client.execute, query=known, params={"name": _SETTING})) == [(0,)]:
            return
        for table in _LARGE:
            at.clickhouse.call(partial(Client.execute, query=f"ALTER TABLE {table} {how}"))


def _letters(plan: Plan, workers: Crew) -> dict[str, list[int]]:
    """Offsets of raw records that are dead letters already, by `topic:partition`."""
    if not plan.is_finished("letters"):
        plan.finish("letters", [[partition, end] for (_, partition), end in ends(plan.settings, [dead_letters.TOPIC]).items()])
    units = [Unit(f"letters {partition}", take_letters, (partition, end)) for partition, end in plan.result("letters") if end]
    buried: dict[str, list[int]] = {}
    for found in workers.do("took over dead letters", units).values():
        for place, offsets in found.items():
            buried.setdefault(place, []).extend(offsets)
    return buried


def _read(plan: Plan, workers: Crew, buried: Mapping[str, list[int]], done: _Done) -> dict[int, Read]:
    """All raw records; how many there were, by partition."""
    places = {
        f"read {topic} {number}": (topic, number)
        for topic, number in sorted(plan.until, key=plan.records, reverse=True)
        if plan.records((topic, number))
    }
    for name in filter(plan.is_finished, places):
        done.add(*plan.result(name))
    units = [Unit(name, read_partition, (topic, number, buried.get(f"{topic}:{number}", []))) for name, (topic, number) in places.items()]
    of_partition = {number: Read(0, 0) for _, number in plan.until}
    for name, (messages, size) in workers.do("read raw records", units).items():
        number = places[name][1]
        of_partition[number] = Read(of_partition[number].messages + messages, of_partition[number].bytes + size)
    return of_partition


def _compute(plan: Plan, workers: Crew, read: Mapping[int, Read], done: _Done) -> None:
    """Sessions and identities of all partitions. What ClickHouse passed on is complete by now."""
    passed_on = ends(plan.settings, [COPIES, identify.EVIDENCE])
    of_cookies = [(number, end) for (topic, number), end in passed_on.items() if topic == COPIES]
    of_portals = [(number, end) for (topic, number), end in passed_on.items() if topic == identify.EVIDENCE and end]
    workers.do("read copies", [Unit(f"read event-copies {number}", read_copies, (number, end)) for number, end in of_cookies if end])
    units = []
    for number, _ in of_cookies:
        applied = _applied(plan, number, passed_on)
        counted = read.get(number, Read(0, 0))
        if applied:
            units.append(Unit(f"sessionize {number}", sessionize_partition, (number, applied, *counted)))
        if not applied or plan.is_finished(f"sessionize {number}"):
            done.add(*counted)
    workers.do(
        "computed sessions and identities",
        units + [Unit(f"identify {number}", identify_partition, (number, end)) for number, end in of_portals],
    )


def _applied(plan: Plan, partition: int, passed_on: Mapping[Place, int]) -> dict[str, int]:
    """The last offset that the state of a partition of cookies has, of each source."""
    ended = {topic: plan.until.get((topic, partition), 0) for topic in sessionize.SOURCES if topic in RAW_TOPICS.values()}
    ended[COPIES] = passed_on[COPIES, partition]
    return {topic: end - 1 for topic, end in ended.items() if end}


def _commit(plan: Plan) -> None:
    """The offsets of all parts: raw topics as far as they were rebuilt, what follows from them as far as it goes."""
    settings = plan.settings
    derived = ends(settings, [*derived_rows.TABLES, identify.EVIDENCE, COPIES])
    letters = {(dead_letters.TOPIC, number): end for number, end in plan.result("letters")}
    reached = {**plan.until, **derived, **letters}
    moment = str(time.time_ns() // 1_000_000)
    for part in PARTS:
        read = {topic.name for topic in load_topics().values() if part in topic.consumers}
        offsets = [
            TopicPartition(kafka.topic_name(settings, topic), number, end, moment)
            for (topic, number), end in reached.items()
            if topic in read and end
        ]
        if offsets:
            in_group(settings, part, partial(Consumer.commit, offsets=offsets, asynchronous=False))
