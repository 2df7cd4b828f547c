"""Collectors of the tests."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from infra.servers import Servers
from pipeline.settings import Settings
from tests.edge.running import Running, running


@pytest.fixture
def edge(settings: Settings, tmp_path: Path) -> Iterator[Running]:
    """A collector that runs, on topics of its own."""
    with running(settings, tmp_path) as edge:
        yield edge


@pytest.fixture(scope="module")
def shared(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One collector for tests that publish nothing."""
    settings = Settings.model_validate(
        {"kafka": {"bootstrap_servers": servers.kafka.bootstrap_servers, "topic_prefix": f"test_{uuid4().hex[:12]}-"}}
    )
    with running(settings, tmp_path_factory.mktemp("edge")) as edge:
        yield edge
