"""Records that a partition's state should have and does not are read again from the sources, which are kept for ever.

State is committed before offsets are (adapters/changelog.py), so it is never behind them, unless something happened to the changelog:
deleted, made anew, or cut by a broker that recovered its disk. How far it had come is lost with it, so all that the topics have by now is
read again. Found when a partition is opened, for each source topic:

| the state has come to | the group has committed | the topic has | so |
|---|---|---|---|
| n | at most n + 1 | n | all is well |
| n | m > n + 1 | n + 1 ... | these, of all topics, are read again before anything else, in the order of their Kafka timestamps |
| n | m > n + 1 | less: its beginning was deleted | DeletedError (or skipped, see adapters/deleted.py) |
| n | m | no n or no m - 1 any more: its end is before it | MadeAnewError: new records would be taken for old ones |
| n, of another topic of that name | whatever | whatever | MadeAnewError, likewise (`same`) |
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from pipeline.adapters import deleted, kafka, topic_ids
from pipeline.adapters.batching import Batch
from pipeline.adapters.changelog import patiently
from pipeline.adapters.contracts import RAW_TOPICS, load_topics
from pipeline.logs import logger
from pipeline.replay import registry
from pipeline.settings import Settings

_TIMEOUT_S = 5.0

log = logger("fold")


class Sources:
    """The source topics of a stateful part; `changelog` (as Kafka knows it) is told to whoever must mend it."""

    def __init__(self, settings: Settings, app: str, topics: Sequence[str], changelog: str) -> None:
        self._settings = settings
        self._app = app
        self._logical = {kafka.topic_name(settings, topic): topic for topic in topics}
        self._changelog = changelog

    def same(self, before: Mapping[str, str]) -> dict[str, str]:
        """The ids of the topics. MadeAnewError if one is not the topic that it was `before`. Waits while Kafka is away."""
        now = topic_ids.topic_ids(self._settings, [*self._logical.values()])
        if anew := topic_ids.made_anew(before, now):
            names = ", ".join(kafka.topic_name(self._settings, topic) for topic in anew)
            raise self._made_anew(
                f"{names}: deleted and made again since the state in {self._changelog} was computed from what was there", anew
            )
        return {**before, **now}

    def missed(self, partition: int, applied: Mapping[str, int], generation: int, *, again: bool) -> Iterator[list[Batch]]:
        """What a state that has come to `applied` may have had, and has not: nothing, if it is as far as the group has committed, and does
        not say itself that it is read `again`. Waits while Kafka is away.
        """
        asking = kafka.consumer(self._settings, self._app)
        try:
            missing = self._missing(asking, partition, applied, again=again)
        finally:
            asking.close()
        if missing:
            records = sum(map(len, missing.values()))
            log.warning("the changelog is behind: reading its sources again", app=self._app, partition=partition, records_at_most=records)
            yield from self._read(partition, missing, generation)

    def _missing(self, asking: Consumer, partition: int, applied: Mapping[str, int], *, again: bool) -> dict[str, range]:
        """Offsets by topic, as Kafka knows it."""
        wanted = [TopicPartition(name, partition) for name in self._logical]
        committed: list[TopicPartition] = []
        patiently(log, lambda: committed.extend(asking.committed(wanted, timeout=_TIMEOUT_S)), "looking for committed offsets")
        if not applied and all(place.offset < 0 for place in committed):
            return {}  # nobody was here before
        missing, is_behind = {}, again
        for place in committed:
            due = applied[topic] + 1 if (topic := self._logical[place.topic]) in applied else self._first(topic, partition)
            begin, end = self._ends(asking, place)
            if end < max(due, place.offset):
                raise self._made_anew(self._shorter(place, max(due, place.offset), end), [topic])
            if place.offset > due:
                is_behind = True
                if begin > due:
                    deleted.gone(self._settings, self._app, (place.topic, partition), range(due, min(begin, place.offset)))
            missing[place.topic] = range(max(due, begin), end)
        return {topic: offsets for topic, offsets in missing.items() if offsets} if is_behind else {}

    def _first(self, topic: str, partition: int) -> int:
        """The first offset that the generation has anything of: not 0 if it was rebuilt from a time on (`replay start --from`)."""
        if self._settings.generation == 1:
            return 0
        begin = registry.read(self._settings).of(self._settings.generation).about.begin.get(topic)
        return begin[partition] if begin else 0

    def _ends(self, asking: Consumer, place: TopicPartition) -> tuple[int, int]:
        found: list[tuple[int, int]] = []
        patiently(log, lambda: found.append(asking.get_watermark_offsets(place, timeout=_TIMEOUT_S)), "looking for the ends of a topic")
        return found[0]

    def _shorter(self, place: TopicPartition, due: int, end: int) -> str:
        return (
            f"{place.topic}[{place.partition}] ends at offset {end:,}, and {self._app} (its state is in {self._changelog}) has come to "
            f"{due:,}: the topic was made anew, or has lost its end"
        )

    def _made_anew(self, what: str, topics: Iterable[str]) -> deleted.MadeAnewError:
        if derived := sorted(set(topics) & (load_topics().keys() - set(RAW_TOPICS.values()))):
            return deleted.MadeAnewError(
                f"{what}. What was in {', '.join(derived)} follows from the raw topics, but is written only once: build a new generation "
                "(`python -m pipeline replay start`), switch to it (`replay switch`), and drop this one (`replay drop`)."
            )
        return deleted.MadeAnewError(
            f"{what}. To compute the state again from what the topics have now: stop {self._app}, delete the "
            f"topic {self._changelog}, make it again (`python -m pipeline topics create`), start."
        )

    def _read(self, partition: int, missing: Mapping[str, range], generation: int) -> Iterator[list[Batch]]:
        each = [self._records(TopicPartition(topic, partition, offsets.start), offsets.stop) for topic, offsets in missing.items()]
        records = heapq.merge(*each, key=lambda message: message.timestamp()[1])
        while some := list(islice(records, self._settings.worker.batch_records)):
            by_topic: dict[str, list[Message]] = {}
            for message in some:
                by_topic.setdefault(str(message.topic()), []).append(message)
            yield [self._batch(partition, topic, messages, generation) for topic, messages in by_topic.items()]

    def _records(self, begin: TopicPartition, stop: int) -> Iterator[Message]:
        """From there on, up to offset `stop`, without it."""
        consumer = kafka.consumer(self._settings, self._app, **{"enable.partition.eof": True, "auto.offset.reset": "error"})
        due = begin.offset
        try:
            consumer.assign([begin])
            while True:
                for message in consumer.consume(1_000, timeout=0.1):
                    error = message.error()
                    if error is None and (message.offset() or 0) < stop:
                        due = (message.offset() or 0) + 1
                        yield message
                    elif error is None or self._is_end(message, error, stop):
                        return
                    elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - its public name
                        due = self._begin_again(consumer, TopicPartition(begin.topic, begin.partition, due), stop)
                    else:
                        log.warning("waiting for Kafka", doing="reading records again", error=error.str())
        finally:
            consumer.close()

    def _begin_again(self, consumer: Consumer, due: TopicPartition, stop: int) -> int:
        """The first offset that there is: what was due was deleted since we looked. As `missed` if it may not be missed."""
        begin, end = self._ends(consumer, due)
        if end < due.offset:
            raise self._made_anew(self._shorter(due, due.offset, end), [self._logical[due.topic]])
        if begin > due.offset:
            deleted.gone(self._settings, self._app, (due.topic, due.partition), range(due.offset, min(begin, stop)))
        consumer.assign([TopicPartition(due.topic, due.partition, begin)])
        return begin

    def _is_end(self, message: Message, error: KafkaError, stop: int) -> bool:
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            return (message.offset() or 0) >= stop
        if (found := kafka.damage(message)) is not None:
            raise found
        return False

    def _batch(self, partition: int, topic: str, messages: Sequence[Message], generation: int) -> Batch:
        return Batch(
            topic=self._logical[topic],
            partition=partition,
            offsets=[message.offset() or 0 for message in messages],
            keys=[message.key() for message in messages],
            values=[message.value() for message in messages],
            timestamp=messages[-1].timestamp()[1],
            generation=generation,
        )
