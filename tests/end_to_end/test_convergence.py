"""The whole pipeline on the real servers comes to what `resolve` says, whatever the order, the duplicates and the crashes."""

import os
import random
import signal
from pathlib import Path

import orjson
import pytest

from pipeline.core.policy import Policy
from pipeline.resolve import Resolution, resolve_lines
from pipeline.settings import Settings
from tests.end_to_end.collisions import collisions
from tests.end_to_end.reading import resolution_in_clickhouse
from tests.end_to_end.running import caught_up, children, command, running

EVENTS = 20_000
WORKERS = 3


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return collisions(EVENTS, seed=1)


@pytest.fixture(scope="module")
def expected(lines: list[bytes]) -> Resolution:
    return resolve_lines(enumerate(lines, 1), Policy())


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("shuffle", "restart"), [(1, "stop"), (2, "kill the workers"), (3, "kill everything")])
def test_clickhouse_equals_resolve(
    settings: Settings, tmp_path: Path, lines: list[bytes], expected: Resolution, shuffle: int, restart: str
) -> None:
    """Sessions, contacts, links, owners of all events, what conflicts, what is retracted: three orders, a restart in the middle of each."""
    random.Random(shuffle).shuffle(shuffled := list(lines))
    halves = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    halves[0].write_bytes(b"\n".join(shuffled[: EVENTS // 2]))
    halves[1].write_bytes(b"\n".join(shuffled[EVENTS // 2 :]))
    log = tmp_path / "run.log"
    with running(settings, log, WORKERS) as supervisor:
        assert command(settings, "publish", str(halves[0])).returncode == 0
        if restart == "kill the workers":
            for worker in children(supervisor.pid):
                os.kill(worker, signal.SIGKILL)
        if restart == "kill everything":
            supervisor.kill()
        else:
            assert command(settings, "publish", str(halves[1])).returncode == 0
            if restart == "kill the workers":
                caught_up(settings, log)
    if restart != "kill the workers":
        with running(settings, log, WORKERS):
            assert command(settings, "publish", str(halves[1])).returncode == 0
            caught_up(settings, log)
    shown = resolution_in_clickhouse(settings)
    assert shown.contacts == expected.contacts
    assert shown.links == expected.links
    assert shown.sessions == expected.sessions
    assert shown.events == expected.events
    said = orjson.loads(command(settings, "status", "--json").stdout)
    assert said["retracted"] == len({(line["portal_id"], line["event_id"]) for line in map(orjson.loads, lines)}) - len(expected.events) > 0
    assert sorted(row.detail for row in shown.rejected) == sorted(row.detail for row in expected.rejected)
