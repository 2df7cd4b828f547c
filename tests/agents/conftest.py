from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.settings import Settings
from tests.agents.running import Toy


@pytest.fixture
def toy(settings: Settings, tmp_path: Path) -> Iterator[Toy]:
    toy = Toy(settings.model_copy(update={"data_dir": tmp_path}))
    toy.make_topics()
    yield toy
    toy.stop()
