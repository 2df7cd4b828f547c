"""What tests of every kind share: real servers, started once per run, and settings under which each test is alone on them."""

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest
import structlog
from clickhouse_driver import Client
from confluent_kafka.admin import AdminClient

from infra.servers import Servers, embedded
from pipeline.settings import Settings
from pipeline.settings_sources import FILE_VARIABLE, NO_FILE, PREFIX

hypothesis.settings.register_profile("any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("any machine")  # a busy machine stands still for a second now and then

DIRECTORY_VARIABLE = "TEST_SERVERS"
"""A data directory whose running servers (`make up`: .data) the tests use instead of starting their own: saves seconds a run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the servers carry the mark, so `-m "not servers"` runs those that take no time."""
    for item in items:
        if "servers" in getattr(item, "fixturenames", ()):
            item.add_marker("servers")


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A test that calls `logs.configure` would leave a handler that writes to what pytest captured for it, closed by then."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    yield
    if structlog.is_configured():
        root.handlers[:], root.level, logging.raiseExceptions = before
        structlog.reset_defaults()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with tempfile.TemporaryDirectory(prefix="servers-") as scratch, embedded(Path(os.environ.get(DIRECTORY_VARIABLE, scratch))) as running:
        yield running


@pytest.fixture
def settings(servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Settings]:
    """The running servers, with names of topics, a database and a directory that no other test has; nothing is left of them."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(FILE_VARIABLE, NO_FILE)
    mine = f"test_{uuid4().hex[:12]}"
    yield Settings.model_validate(
        {
            "kafka": {"bootstrap_servers": servers.kafka.bootstrap_servers, "topic_prefix": f"{mine}-"},
            "clickhouse": {
                "host": servers.clickhouse.host,
                "port": servers.clickhouse.port,
                "user": servers.clickhouse.user,
                "password": servers.clickhouse.password,
                "analyst_user": servers.clickhouse.analyst_user,
                "analyst_password": servers.clickhouse.analyst_password,
                "database": mine,
            },
            "data_dir": tmp_path / ".data",
        }
    )
    _delete_topics(servers, f"{mine}-")
    _drop_databases(servers, mine)


def _delete_topics(servers: Servers, prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers.kafka.bootstrap_servers})
    topics = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(prefix)]
    if topics:
        for deleted in admin.delete_topics(topics).values():
            deleted.result(timeout=30)


def _drop_databases(servers: Servers, database: str) -> None:
    """Those of all its generations."""
    at = servers.clickhouse
    client = Client(at.host, port=at.port, user=at.user, password=at.password)
    for (name,) in client.execute("SELECT name FROM system.databases WHERE startsWith(name, %(name)s)", {"name": database}):
        client.execute(f"DROP DATABASE IF EXISTS {name}")
    client.disconnect()


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a test, or a command that it calls in this process, does to the environment ends with it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
