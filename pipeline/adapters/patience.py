"""Neighbours that may be away, for a worker with a loop of its own: it waits, says so now and then, and loses nothing.

Whoever waits gives a `pause` (seconds): it lets time pass as the worker has to, staying in its consumer group, and raises StoppedError
when the worker is asked to stop. Anything that waiting does not mend is raised.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from clickhouse_driver import Client
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipeline.adapters import clickhouse, kafka
from pipeline.adapters.dead_letters import Headers
from pipeline.errors import UserError
from pipeline.settings import Settings

COMPLAIN_EVERY_S = 5.0
_BACK_OFF_S = (0.2, 0.5, 1.0, 2.0)
_PRODUCER = {
    "message.max.bytes": 16 << 20,  # a dead letter is as large as the record was
    "message.timeout.ms": 0,  # never gives up
    "linger.ms": 5,
}

T = TypeVar("T")
Pause = Callable[[float], None]


class StoppedError(Exception):
    """We were asked to stop while waiting: what is not committed comes again."""


class Complaints:
    """Warnings, at most one every few seconds."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._last = float("-inf")

    def say(self, what: str, **about: object) -> None:
        now = time.monotonic()
        if now - self._last >= COMPLAIN_EVERY_S:
            self._last = now
            self._log.warning(what, **about)


def until_there(call: Callable[[], object], away: type[UserError], stop: threading.Event, complaints: Complaints) -> None:
    """Calls until nothing is `away` any more."""
    while True:
        try:
            call()
            return
        except away as error:
            complaints.say("waiting", error=str(error))
        if stop.wait(1.0):
            raise StoppedError


class PatientClickHouse:
    """One connection, made again whenever it broke."""

    def __init__(self, settings: Settings, pause: Pause, complaints: Complaints) -> None:
        self._settings = settings
        self._pause = pause
        self._complaints = complaints
        self._client: Client | None = None

    def call(self, work: Callable[[Client], T]) -> T:
        """What `work` returns once the server is there for all of it; so it may be done several times, in whole or in part."""
        attempt = 0
        while True:
            try:
                if self._client is None:
                    self._client = clickhouse.connect(self._settings)
                return work(self._client)
            except Exception as error:
                if not clickhouse.is_away(error):
                    if (told := clickhouse.user_error(self._settings, error)) is not None:
                        raise told from None
                    raise
                self._complaints.say("waiting for ClickHouse", error=str(clickhouse.user_error(self._settings, error)))
            self.disconnect()
            self._pause(_BACK_OFF_S[min(attempt, len(_BACK_OFF_S) - 1)])
            attempt += 1

    def disconnect(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client = None


class PatientProducer:
    """Writes records; `flush` returns when the broker has them all."""

    def __init__(self, settings: Settings, pause: Pause, complaints: Complaints) -> None:
        self._settings = settings
        self._pause = pause
        self._complaints = complaints
        self._refused: KafkaError | None = None
        self._forbidden: str | None = None
        """The topic that we may not write."""
        self._producer: Producer = kafka.producer(settings, **_PRODUCER, on_delivery=self._on_delivery)

    def produce(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers | None = None) -> None:
        """`topic` is the logical name."""
        while True:
            try:
                self._producer.produce(kafka.topic_name(self._settings, topic), value, key, headers=headers)  # type: ignore[arg-type]
                return
            except BufferError:  # the queue is full: the broker needs time
                self._producer.poll(0.1)
            except KafkaException as exception:
                raise kafka.refusal(self._settings, exception, f"write topic {topic}") from None

    def flush(self) -> None:
        """UserError if we may not write, RuntimeError if the broker will never take a record for another reason."""
        while self._producer.flush(1.0):
            self._complaints.say("waiting for Kafka", undelivered=len(self._producer))
            self._pause(0.0)
        if self._forbidden is not None:
            raise kafka.forbidden(self._settings, f"write topic {self._forbidden}")
        if self._refused is not None:
            raise RuntimeError(f"Kafka refuses what we write: {self._refused.str()}") from KafkaException(self._refused)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and error.code() in kafka.PERMISSIONS:
            self._forbidden = message.topic()
        self._refused = self._refused or error
