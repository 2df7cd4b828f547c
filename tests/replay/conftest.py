"""What the tests of generations share."""

from pathlib import Path

import pytest

from pipeline.adapters import clickhouse, topics
from pipeline.adapters.avro import Registry
from pipeline.core.copies import merge
from pipeline.core.events import Event
from pipeline.core.policy import Policy
from pipeline.policy_file import as_toml
from pipeline.replay import registry, views
from pipeline.replay.registry import Generation, State
from pipeline.resolve import resolve_events
from pipeline.settings import Settings
from tests.adapters.meaning import write_meaning
from tests.adapters.test_views import arrive, by_id
from tests.cli.conftest import no_settings, run

__all__ = ["no_settings", "run"]  # fixtures of the commands


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """What this machine remembers of the generations is this test's alone."""
    return settings.model_copy(update={"data_dir": tmp_path / "data"})


def built(settings: Settings, number: int, *events: Event, policy: Policy | None = None) -> Settings:
    """A generation whose tables say what these events mean; the settings that lead to it. It has no topics (`in_kafka`)."""
    of_generation = settings.of_generation(number)
    clickhouse.migrate(of_generation)
    client = clickhouse.connect(of_generation)
    encoder = Registry(Settings())
    arrive(client, encoder, events)
    write_meaning(client, encoder, resolve_events([merge(copies).event for copies in by_id(events)], policy or Policy()))
    client.disconnect()
    if number > 1:
        registry.write(settings, Generation(number, State.FOLLOWING, as_toml(policy or Policy())))
    return of_generation


def in_kafka(settings: Settings) -> None:
    """Gives all generations their topics."""
    for of_generation in registry.all_settings(settings):
        topics.create_topics(of_generation)


def pointed(settings: Settings, number: int) -> None:
    """Readers see the generation, as after `replay switch`."""
    views.install(settings)
    registry.switch(settings, number)
