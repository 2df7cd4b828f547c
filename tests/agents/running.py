"""Toy workers as processes, what they read, and what they wrote."""

import json
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import TopicPartition
from confluent_kafka.cimpl import NewTopic

from pipeline.adapters import kafka
from pipeline.adapters.avro_columns import MAX_BYTES
from pipeline.agents.health import directory
from pipeline.settings import Settings
from tests.agents.counting import CHANGELOG, SOURCES, TOTALS, work
from tests.deleting import delete_topic
from tests.processes import Forked

PARTITIONS = 4


class Worker(Forked):
    """A process that works on a part."""

    def terminate(self) -> int | None:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(12)


@dataclass
class Toy:
    """The topics of the toy part, under the prefix of `settings`, and the workers of one test."""

    settings: Settings
    published: Counter[bytes] = field(default_factory=Counter)
    workers: list[Worker] = field(default_factory=list)

    def make_topics(self, names: Iterable[str] = (*SOURCES, TOTALS, CHANGELOG, "sorted")) -> None:
        configs = {CHANGELOG: {"cleanup.policy": "compact"}}
        topics = [NewTopic(kafka.topic_name(self.settings, name), PARTITIONS, 1, config=configs.get(name, {})) for name in names]
        admin = kafka.admin(self.settings)  # it must live until the answers are there
        for future in admin.create_topics(topics).values():
            future.result(timeout=30)

    def publish(self, count: int, keys: int = 50, seed: int = 1, topics: Iterable[str] = SOURCES) -> None:
        """`count` records, in turn to the topics, of about `keys` different values; key = value."""
        chance = random.Random(seed)
        names = [kafka.topic_name(self.settings, topic) for topic in topics]
        producer = kafka.producer(self.settings)
        for number in range(count):
            value = b"key-%d" % chance.randrange(keys)
            producer.produce(names[number % len(names)], value, value)
            self.published[value] += 1
            producer.poll(0)
        assert producer.flush(30) == 0

    def publish_one(self, value: bytes, topic: str = "apples") -> None:
        producer = kafka.producer(self.settings)
        producer.produce(kafka.topic_name(self.settings, topic), value, value)
        assert producer.flush(30) == 0

    def publish_to(self, topic: str, partition: int, values: Iterable[bytes], key: bytes | None = None) -> None:
        """These and nothing else, to one partition."""
        producer = kafka.producer(self.settings, **{"message.max.bytes": 2 * MAX_BYTES})
        for value in values:
            producer.produce(kafka.topic_name(self.settings, topic), value, key, partition)
        assert producer.flush(30) == 0

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """As retention does."""
        admin = kafka.admin(self.settings)
        place = TopicPartition(kafka.topic_name(self.settings, topic), partition, offset)
        admin.delete_records([place])[place].result(timeout=30)

    def make_anew(self, topic: str) -> None:
        """Deletes it, and makes one of its name."""
        delete_topic(self.settings, topic)
        name = kafka.topic_name(self.settings, topic)
        admin = kafka.admin(self.settings)
        admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(timeout=30)

    def start(
        self, part: str = "count", instance: str | None = None, session_s: float = 3, slow: bool = False, pause_s: float = 0.004
    ) -> "Worker":
        """A worker process. A slow one takes `pause_s` for each event, so that there is a middle in which things can happen."""
        batches = {"instance": instance} | ({"batch_records": 100} if slow else {})
        settings = self.settings.model_copy(update={"worker": self.settings.worker.model_copy(update=batches)})
        worker = Worker(work, settings, part, session_s, pause_s if slow else 0, self.log)
        self.workers.append(worker)
        return worker

    def stop(self) -> None:
        for worker in self.workers:
            worker.signal(signal.SIGCONT)
            worker.kill()
        if self.log.exists():
            print(self.said())

    @property
    def log(self) -> Path:
        """What its workers say: pytest hears nothing of processes that it did not start itself."""
        return self.settings.data_dir / f"{self.settings.kafka.topic_prefix}workers.log"

    def said(self) -> str:
        return self.log.read_text()

    def totals(self) -> dict[bytes, int]:
        """The last count of each key, in committed transactions."""
        return {key: int(value) for key, value in self.records(TOTALS)}

    def records(self, topic: str) -> list[tuple[bytes, bytes]]:
        """Keys and values of all committed records, partition by partition."""
        consumer = kafka.consumer(self.settings, None, **{"enable.partition.eof": True})
        name = kafka.topic_name(self.settings, topic)
        consumer.assign([TopicPartition(name, partition, 0) for partition in range(PARTITIONS)])
        found: list[tuple[bytes, bytes]] = []
        ended = 0
        while ended < PARTITIONS:
            for message in consumer.consume(1000, 0.1):
                if message.error():
                    ended += 1
                else:
                    found.append((message.key(), message.value()))  # type: ignore[arg-type]
        consumer.close()
        return found

    def committed(self, group: str = "count") -> dict[tuple[str, int], int]:
        """The group's committed offsets by topic and partition; 0 where there is none."""
        consumer = kafka.consumer(self.settings, group=group)
        wanted = [TopicPartition(kafka.topic_name(self.settings, topic), partition) for topic in SOURCES for partition in range(PARTITIONS)]
        found = consumer.committed(wanted, timeout=30)
        consumer.close()
        return {(entry.topic.removeprefix(self.settings.kafka.topic_prefix), entry.partition): max(entry.offset, 0) for entry in found}

    def ends(self) -> dict[tuple[str, int], int]:
        """Where each source partition ends."""
        consumer = kafka.consumer(self.settings)
        ends = {
            (topic, partition): consumer.get_watermark_offsets(
                TopicPartition(kafka.topic_name(self.settings, topic), partition), timeout=30
            )[1]
            for topic in SOURCES
            for partition in range(PARTITIONS)
        }
        consumer.close()
        return ends

    def health(self, instance: str, part: str = "count") -> dict[str, Any]:
        """What a worker says about itself; empty before it has said anything."""
        file = directory(self.settings) / f"{part}-{instance}.json"
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def partitions_of(self, instance: str) -> dict[int, set[str]]:
        """The partitions that the worker has, and the source topics of each that it has worked on."""
        partitions = self.health(instance).get("partitions", {})
        return {int(partition): set(progress["applied"]) for partition, progress in partitions.items()}

    def is_counted(self) -> bool:
        """Whether the counts are those of what was published."""
        return self.totals() == self.published

    def has_counted(self, share: float) -> Callable[[], bool]:
        """Whether at least this share of what was published is counted."""
        return lambda: sum(self.totals().values()) >= share * self.published.total()
