"""What a bug in a part says: what kind it is and where, and nothing of what the exception says."""

import os
import re
from pathlib import Path

import pytest

from pipeline import bugs
from pipeline.adapters import topics
from pipeline.adapters.avro import Registry
from pipeline.app import ROLES
from pipeline.settings import Log, Settings
from tests.adapters.recording import publish, raw
from tests.agents.running import Toy
from tests.builders import form_submission
from tests.faults.fail_points import EXCEPTION_ALWAYS, PERSONAL, PLANTED
from tests.faults.planted import work
from tests.processes import Forked
from tests.waiting import until

CANARY = b"can@ry.io"


@pytest.mark.parametrize("format_", ["text", "json"])
@pytest.mark.parametrize("role", ROLES)
def test_a_part_with_a_bug_tells_places_only(role: str, format_: str, settings: Settings, tmp_path: Path) -> None:
    """It ends with exit code 1; the exception that is meant is there with its cause, their places, and neither's message."""
    topics.create_topics(settings)
    publish(settings, raw(Registry(settings), form_submission(1, email="a@x.io")))
    environment = {**os.environ, **settings.environment(), "PIPELINE_LOG__FORMAT": format_}
    part = Forked(work, EXCEPTION_ALWAYS, ("worker", role), environment, log := tmp_path / "log")
    try:
        assert part.wait(60) == 1
    finally:
        part.kill()
    said = log.read_text().replace("\\n", "\n")
    assert PERSONAL not in said
    assert said.count(bugs.HEADING) == said.count(f"tests.faults.fail_points.{PLANTED}") == 1
    assert re.search(r"\n  tests/faults/fail_points\.py:\d+ fail\nKeyError\nwhich led to:\n  ", said)
    assert re.search(rf"\n  pipeline/(.*\n)+  tests/faults/fail_points\.py:\d+ fail\n[\w.]+{PLANTED}", said)


def test_a_worker_shows_no_record_whatever_its_level(toy: Toy) -> None:
    """At debug libraries say what they send and receive: not what is in it. Nor does a bug that the record hits."""
    settings = toy.settings.model_copy(update={"log": Log(level="debug")})
    talking = Toy(settings, toy.published, toy.workers)
    talking.publish_one(CANARY)
    worker = talking.start()
    until(lambda: talking.totals() == {CANARY: 1})
    assert worker.terminate() == 0
    talking.publish_one(b"poison")
    talking.publish_one(CANARY)
    assert talking.start().wait(20) == 1
    said = talking.said()
    assert "debug" in said
    assert said.count(bugs.HEADING) == 1
    assert CANARY.decode() not in said
    assert CANARY.hex() not in said
