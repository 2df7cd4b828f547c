"""Collectors of the tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.settings import Settings
from tests.edge.running import Running, running


@pytest.fixture
def edge(settings: Settings, tmp_path: Path) -> Iterator[Running]:
    """A collector that runs, on topics of its own."""
    with running(settings, tmp_path) as edge:
        yield edge
