"""`publish`: a file of JSON lines -> validated events -> the raw topics (spec: events.md; timeline.md, "Commands").

A line that is no event goes to the dead letters, and the next one is read. Memory does not grow with the file: what Kafka has
not taken yet waits in a queue of fixed size, and reading waits for it. While Kafka is away we wait too, and say so; a record
that it has not taken after the delivery timeout ends the command with a failure. Publishing again is always safe: an event
counts once.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message

from pipeline.adapters import dead_letters, kafka
from pipeline.adapters.avro import Registry
from pipeline.adapters.avro_columns import MAX_BYTES
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.adapters.topics import create_topics
from pipeline.core.events import Event
from pipeline.core.outcomes import Reason, Refused
from pipeline.core.parsing import parse_line
from pipeline.errors import UserError
from pipeline.lines import numbered_lines
from pipeline.logs import logger
from pipeline.settings import Settings

DELIVERY_TIMEOUT_MS = 300_000
LINGER_MS = 200
"""How long a record may wait for others of its partition: large record batches are cheap for the broker and for every reader."""
PATIENCE_S = 3.0
"""How long nothing may move before we say that we wait."""
_LINES_PER_STEP = 2_000

log = logger("publish")


class Counts(msgspec.Struct):
    """What became of the lines so far. Blank ones are in `lines` only."""

    lines: int = 0
    published: Counter[str] = msgspec.field(default_factory=Counter)
    """By event type."""
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    """By reason."""


def publish(
    settings: Settings,
    path: Path,
    progress: Callable[[Counts], None] | None = None,
    accepted: Callable[[Event], None] | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Counts:
    """Publishes the events of a file; returns when Kafka has acknowledged all of them.

    `progress` is called every few thousand lines, `accepted` for each event that Kafka has acknowledged. `options` are
    librdkafka's, over ours. UserError if the file cannot be read, Kafka is not there to begin with, or has not taken everything.
    """
    with _opened(path) as file:
        create_topics(settings, "publish")
        publication = _Publication(settings, accepted, options)
        for number, line in numbered_lines(_cut(file, publication.sizes)):
            publication.line(number, line)
            if number % _LINES_PER_STEP == 0:
                publication.step()
                if progress:
                    progress(publication.counts)
        publication.finish()
        return publication.counts


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=1 << 20)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the path of a file of JSON lines") from None


def _cut(file: BinaryIO, sizes: dict[int, int]) -> Iterator[bytes]:
    """The lines of the file; of one that is too long for a dead letter its first bytes, and its size by its number."""
    number = 0
    while line := file.readline(dead_letters.LONGEST):
        number += 1
        if len(line) == dead_letters.LONGEST and not line.endswith(b"\n"):
            size = len(line)
            while rest := file.readline(dead_letters.LONGEST):
                size += len(rest)
                if rest.endswith(b"\n"):
                    break
            sizes[number], line = size, line[: dead_letters.CUT]
        yield line


class _Publication:
    """One file on its way to Kafka."""

    def __init__(self, settings: Settings, accepted: Callable[[Event], None] | None, options: Mapping[str, Any]) -> None:
        self._settings = settings
        self._registry = Registry(settings, wait_s=30)
        self._topics = {name: kafka.topic_name(settings, topic) for name, topic in RAW_TOPICS.items()}
        self._dead_letters = kafka.topic_name(settings, dead_letters.TOPIC)
        self._accepted = accepted
        self._failures: Counter[str] = Counter()
        self._trouble = ""
        self._producer = kafka.producer(
            settings,
            **{
                "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
                "queue.buffering.max.messages": 200_000,
                "linger.ms": LINGER_MS,
                "queue.buffering.max.kbytes": 64 << 10,
                "message.max.bytes": dead_letters.LONGEST + (1 << 20),
                "delivery.report.only.error": accepted is None,  # nobody asks for the others, and they cost as much as encoding
                "on_delivery": self._report,
                "error_cb": self._note,
            }
            | dict(options),
        )
        self.counts = Counts()
        self.sizes: dict[int, int] = {}
        """Of lines that were cut, by number."""

    def line(self, number: int, line: bytes) -> None:
        size = self.sizes.pop(number, None)
        outcome = parse_line(line) if size is None else Refused(Reason.TOO_LARGE, f"the line: expected at most {MAX_BYTES} bytes")
        value = b"" if isinstance(outcome, Refused) else self._registry.encode_event(outcome)
        if len(value) > MAX_BYTES:
            outcome = Refused(Reason.TOO_LARGE, f"the line: expected an event of at most {MAX_BYTES} bytes of Avro")
        self.counts.lines = number
        if isinstance(outcome, Refused):
            self.counts.refused[outcome.reason.value] += 1
            headers = dead_letters.headers(outcome, "publish", offset=number, size=size)
            self._produce(self._dead_letters, line, headers=headers)
            return
        self.counts.published[outcome.type] += 1
        key = outcome.event_id if outcome.utk is None else outcome.utk
        if self._accepted is None:
            self._produce(self._topics[outcome.type], value, key)
        else:
            self._produce(self._topics[outcome.type], value, key, on_delivery=self._reporter(outcome))

    def step(self) -> None:
        """Hears what was delivered. UserError if something was not."""
        self._producer.poll(0)
        if self._failures:
            self._give_up()

    def finish(self) -> None:
        """Waits until Kafka has taken everything. UserError if it has not."""
        self._wait(at_most=0)
        self.step()

    def _produce(self, *record: Any, **more: Any) -> None:
        while True:
            try:
                self._producer.produce(*record, **more)
                return
            except BufferError:
                self._wait(at_most=len(self._producer) * 3 // 4)
            except KafkaException as exception:
                raise kafka.refusal(self._settings, exception, f"write topic {record[0]}") from None

    def _wait(self, at_most: int) -> None:
        """Until no more records than that are waiting for Kafka; says so every few seconds while it takes none."""
        waiting, moved_at = len(self._producer), time.monotonic()
        while len(self._producer) > at_most:
            self._producer.poll(0.1)
            if self._failures:
                self._give_up()
            if len(self._producer) < waiting:
                waiting, moved_at = len(self._producer), time.monotonic()
            elif time.monotonic() - moved_at > PATIENCE_S:
                log.warning("waiting for Kafka", records=waiting, servers=self._settings.kafka.bootstrap_servers, error=self._trouble)
                moved_at = time.monotonic()

    def _note(self, error: KafkaError) -> None:
        self._trouble = error.str()

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        if error.code() in kafka.PERMISSIONS:
            raise kafka.forbidden(self._settings, f"write topic {message.topic()}")
        self._failures[error.str()] += 1

    def _reporter(self, event: Event) -> Callable[[KafkaError | None, Message], None]:
        def report(error: KafkaError | None, message: Message) -> None:
            self._report(error, message)
            if error is None and self._accepted is not None:
                self._accepted(event)

        return report

    def _give_up(self) -> None:
        reasons = ", ".join(f"{count} times {reason}" for reason, count in self._failures.items())
        raise UserError(
            f"kafka.bootstrap_servers is {self._settings.kafka.bootstrap_servers!r}: it did not take all records ({reasons}). "
            f"Publish the file again when Kafka is well: events that it has taken count once."
        )
