"""What the tests of the adapters share."""

from pathlib import Path

import pytest

from pipeline.adapters import topics
from pipeline.adapters.avro import Registry
from pipeline.settings import Settings


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(Settings())


@pytest.fixture
def ready(settings: Settings, tmp_path: Path) -> Settings:
    """Settings whose topics exist."""
    topics.create_topics(settings)
    return settings.model_copy(update={"data_dir": tmp_path})
