"""The collector as a process, with portals of its own, and what Kafka has of it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Any

import requests
from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from infra import ports
from pipeline.adapters import kafka
from pipeline.adapters.avro import Registry
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.core.events import Event
from pipeline.settings import Settings
from tests.waiting import until

SITE, ASKING, OTHER = 7, 8, 9
NOTIFYING, ASKING_BY_CATEGORY, LETTING_OUT = 11, 12, 13
KEY, OTHER_KEY, NEW_KEY = "11" * 32, "22" * 32, "33" * 32
SERVER_KEY = "of the site's server"
ORIGIN = "http://www.site.localhost"
PERSON = {"Origin": ORIGIN, "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/150.0.0.0 Safari/537.36"}
PORTALS = """
[[portals]]
id = 7
domains = ["site.localhost", "shop.localhost"]
thank_you = "http://www.site.localhost/thanks"
consent = { mode = "off" }
keys = ["env:EDGE_KEY"]
server_key = "env:EDGE_SERVER_KEY"
limits = { requests_per_minute = 1000000, requests_per_minute_and_ip = 1000000 }
forms.offer = { thank_you = "http://www.shop.localhost/offer" }

[[portals]]
id = 8
domains = ["site.localhost"]
consent = { mode = "opt_in" }
keys = ["env:EDGE_KEY"]
limits = { requests_per_minute = 1000000, requests_per_minute_and_ip = 1000000 }

[[portals]]
id = 9
domains = ["other.localhost"]
keys = ["env:EDGE_OTHER_KEY"]
limits = { requests_per_minute_and_ip = 20 }

[[portals]]
id = 11
domains = ["site.localhost"]
consent = { mode = "notify" }

[[portals]]
id = 12
domains = ["site.localhost"]
consent = { mode = "opt_in_categories" }

[[portals]]
id = 13
domains = ["site.localhost"]
consent = { mode = "opt_out" }
"""
SECRETS = {"EDGE_KEY": KEY, "EDGE_OTHER_KEY": OTHER_KEY, "EDGE_NEW_KEY": NEW_KEY, "EDGE_SERVER_KEY": SERVER_KEY}


@dataclass
class Running:
    """One `python -m pipeline edge`."""

    settings: Settings
    directory: Path
    portals: str = PORTALS
    command: tuple[str, ...] = ("edge", "--processes", "1")
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    port: int = field(default_factory=lambda: ports.choose([]))

    @property
    def at(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.directory / "edge.log").read_text()

    @property
    def spool(self) -> Path:
        return self.directory / "data" / "edge" / "spool"

    def start(self, **environment: str) -> None:
        (self.directory / "portals.toml").write_text(self.portals)
        own = {
            "PIPELINE_EDGE__PORTALS_FILE": str(self.directory / "portals.toml"),
            "PIPELINE_EDGE__PORT": str(self.port),
            "PIPELINE_EDGE__METRICS_PORT": "0",
            "PIPELINE_DATA_DIR": str(self.directory / "data"),
        }
        with (self.directory / "edge.log").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", *self.command],
                env={**os.environ, **self.settings.environment(), **own, **SECRETS, **self.environment, **environment},
                stdout=output,
                stderr=output,
            )
        until(self.answers, "the collector listens", 150)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            return requests.get(f"{self.at}/health", timeout=2).status_code == 200
        except requests.ConnectionError:
            return False

    def send(self, number: Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: Signals = SIGTERM) -> int:
        """The exit code after this signal."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)

    def post(self, hits: Any, portal: int = SITE, headers: Mapping[str, str] = PERSON, **options: Any) -> requests.Response:
        return requests.post(f"{self.at}/e/{portal}", json=hits, headers=dict(headers), timeout=30, **options)

    def form(self, body: Any, portal: int = SITE, form: str = "contact", headers: Mapping[str, str] = PERSON) -> requests.Response:
        return requests.post(f"{self.at}/forms/{portal}/{form}", json=body, headers=dict(headers), timeout=30)

    def get(self, path: str, headers: Mapping[str, str] = PERSON, **options: Any) -> requests.Response:
        return requests.get(self.at + path, headers=dict(headers), timeout=30, allow_redirects=False, **options)


@contextmanager
def running(settings: Settings, directory: Path, **options: Any) -> Iterator[Running]:
    edge = Running(settings, directory, **options)
    try:
        edge.start()
        yield edge
    finally:
        if edge.process is not None:
            edge.stop(SIGKILL)


def raw_values(settings: Settings) -> list[bytes]:
    """Every record of the raw topics, as bytes."""
    consumer = kafka.consumer(settings)
    there = consumer.list_topics(timeout=30).topics
    names = [kafka.topic_name(settings, topic) for topic in RAW_TOPICS.values()]
    places = [TopicPartition(name, number) for name in names if name in there for number in there[name].partitions]
    ends = {(place.topic, place.partition): consumer.get_watermark_offsets(place, timeout=30) for place in places}
    open_ends = {place: high for place, (low, high) in ends.items() if high > low}
    consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for name, number in open_ends])
    values: list[bytes] = []
    deadline = time.monotonic() + 60
    while open_ends:
        assert time.monotonic() < deadline
        for message in consumer.consume(10_000, timeout=0.05):
            assert message.error() is None
            values.append(message.value() or b"")
            place = (message.topic() or "", message.partition() or 0)
            if (message.offset() or 0) + 1 >= open_ends.get(place, 0):
                open_ends.pop(place, None)
    consumer.close()
    return values


def events(settings: Settings) -> list[Event]:
    """Every event of the raw topics; all records are events."""
    decoded = Registry(settings).decode_events(raw_values(settings))
    assert decoded.refused == []
    return [event for batch in decoded.batches for event in batch.events()]
