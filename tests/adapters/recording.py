"""A recorder in a thread of the test, and what the test puts into the topics and takes out of them."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from clickhouse_driver import Client
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # public, but left out of __all__

from pipeline import record
from pipeline.adapters import clickhouse, kafka
from pipeline.adapters.avro import Registry
from pipeline.adapters.contracts import RAW_TOPICS, load_topics
from pipeline.adapters.patience import StoppedError
from pipeline.core.events import Event
from pipeline.record import Recorder
from pipeline.settings import Settings
from tests.waiting import until

PATIENCE_S = 40.0

Record = tuple[str, bytes | None, bytes | None]
"""Topic (logical), key, value."""


def raw(registry: Registry, *events: Event) -> list[Record]:
    """The records of events in their raw topics."""
    return [(RAW_TOPICS[event.type], (event.utk or event.event_id).encode(), registry.encode_event(event)) for event in events]


def publish(settings: Settings, records: Sequence[Record], headers: Mapping[str, bytes] | None = None) -> None:
    producer = kafka.producer(settings)
    for topic, key, value in records:
        producer.produce(kafka.topic_name(settings, topic), value, key, headers=dict(headers or {}))
    assert producer.flush(PATIENCE_S) == 0


@contextmanager
def recording(settings: Settings, change: Callable[[Recorder], None] | None = None) -> Iterator[Recorder]:
    """A recorder at work; its exception, if it ends with one, is raised at the end of the block."""
    stop = threading.Event()
    recorder = record.recorder(settings, stop)
    if change is not None:
        change(recorder)
    failure: list[BaseException] = []

    def work() -> None:
        try:
            recorder.run()
        except StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the test
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        stop.set()
        thread.join(PATIENCE_S)
    if failure:
        raise failure[0]


def read(settings: Settings, topic: str) -> list[Message]:
    """All records of a topic."""
    consumer, partitions = _ends(settings, [topic])
    messages: list[Message] = []
    consumer.assign([TopicPartition(place.topic, place.partition, 0) for place, _ in partitions])
    wanted = sum(end for _, end in partitions)
    deadline = time.monotonic() + PATIENCE_S
    while len(messages) < wanted and time.monotonic() < deadline:
        messages += [message for message in consumer.consume(1000, 0.2) if not message.error()]
    consumer.close()
    return messages


def caught_up(settings: Settings) -> None:
    """Returns when the group has committed all that is in its topics, dead letters that it wrote itself included."""
    consumer, ends = _ends(settings, record.TOPICS)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while True:
            committed = consumer.committed([place for place, _ in ends], timeout=10)
            behind = [
                (at.topic, at.partition, at.offset, end) for at, (_, end) in zip(committed, ends, strict=True) if max(at.offset, 0) < end
            ]
            if not behind:
                consumer_again, ends_again = _ends(settings, record.TOPICS)
                consumer_again.close()
                if ends_again == ends:
                    return
                ends = ends_again
            assert time.monotonic() < deadline, f"still behind: {behind}"
            time.sleep(0.1)
    finally:
        consumer.close()


def _ends(settings: Settings, topics: Sequence[str]) -> tuple[Consumer, list[tuple[TopicPartition, int]]]:
    places = [
        TopicPartition(kafka.topic_name(settings, topic), number) for topic in topics for number in range(load_topics()[topic].partitions)
    ]
    admin = kafka.admin(settings)
    answers = admin.list_offsets({place: OffsetSpec.latest() for place in places}, request_timeout=10)  # type: ignore[no-untyped-call]
    return kafka.consumer(settings, record.PART), [(place, answer.result().offset) for place, answer in answers.items()]


def ask(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    client: Client = clickhouse.connect(settings)
    rows: list[tuple[Any, ...]] = client.execute(query)
    client.disconnect()
    return rows


def until_ended(recorder: Recorder) -> None:
    def is_closed() -> bool:
        try:
            recorder._consumer.assignment()
        except RuntimeError:
            return True
        return False

    until(is_closed)


class Gate:
    """A way to a server that can be shut: connections through it break, and new ones are refused. Or it can be a bad way."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.swallows_answers = False
        """Whatever the server says disappears, and then the connection breaks."""
        self.most_bytes: int | None = None
        """Connections break after so many bytes to the server."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        assert self._listener is not None
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Breaks all connections."""
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                inside, _ = listener.accept()
                try:
                    outside = socket.create_connection(self._target)
                except OSError:
                    inside.close()
                    continue
                self._open += [inside, outside]
                threading.Thread(target=self._ask, args=(inside, outside), daemon=True).start()
                threading.Thread(target=self._answer, args=(outside, inside), daemon=True).start()

    def _ask(self, source: socket.socket, sink: socket.socket) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(65536):
                if self.most_bytes is not None and passed + len(data) > self.most_bytes:
                    sink.sendall(data[: max(self.most_bytes - passed, 0)])
                    source.shutdown(socket.SHUT_RDWR)
                    break
                sink.sendall(data)
                passed += len(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _answer(self, source: socket.socket, sink: socket.socket) -> None:
        """A server that breaks the connection breaks ours; else we would wait for its answer."""
        with suppress(OSError):
            while data := source.recv(65536):
                if self.swallows_answers:
                    break
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
