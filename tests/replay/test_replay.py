"""A whole replay as a user does it: commands as processes, on the real servers, with `run` beside it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters import clickhouse, kafka
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.alone import alone
from pipeline.core.policy import parse_policy
from pipeline.lag import Readings
from pipeline.letters import Which, letters
from pipeline.replay import registry
from pipeline.replay.registry import State
from pipeline.resolve import Resolution, resolve_lines
from pipeline.settings import Settings
from tests.adapters.test_views import VIEWS
from tests.builders import DAY, START, line, page_view
from tests.end_to_end.collisions import collisions
from tests.end_to_end.reading import resolution_in_clickhouse
from tests.end_to_end.running import WAIT_S, caught_up, command, running
from tests.waiting import until

OTHER = ("sessions.gap=5m", "identity.rebind=move_all")
EVENTS = 3_000


def done(settings: Settings, *arguments: str) -> str:
    """What the command printed; it must succeed."""
    ended = command(settings, *arguments)
    assert ended.returncode == 0, f"{arguments}: {ended.stdout}\n{ended.stderr}"
    return ended.stdout


def published(settings: Settings, file: Path, lines: Sequence[bytes]) -> None:
    file.write_bytes(b"\n".join(lines))
    done(settings, "publish", str(file))


def seen(settings: Settings) -> dict[str, list[Any]]:
    client = clickhouse.connect(settings)
    return {view: client.execute(f"SELECT * FROM {view} ORDER BY ALL") for view in VIEWS}


def is_as_resolved(shown: Resolution, expected: Resolution) -> None:
    assert shown.contacts == expected.contacts
    assert shown.links == expected.links
    assert shown.sessions == expected.sessions
    assert shown.events == expected.events


def follows(settings: Settings, number: int, log: Path) -> None:
    """Returns when the generation's parts, which `run` starts by itself, have caught up."""
    ended = command(settings, "status", "--generation", str(number), "--wait", str(WAIT_S))
    assert ended.returncode == 0, f"{ended.stderr}\n{log.read_text()[-5000:]}"


@pytest.mark.timeout(1200)
def test_a_replay_comes_to_the_same_and_both_generations_follow(settings: Settings, tmp_path: Path) -> None:
    """Byte-equal tables without another policy; `resolve` with one; what is published meanwhile and later is in all of them."""
    lines = collisions(EVENTS, seed=5)
    random.Random(5).shuffle(lines)
    first, meanwhile, later = lines[: EVENTS * 2 // 3], lines[EVENTS * 2 // 3 : EVENTS * 5 // 6], lines[EVENTS * 5 // 6 :]
    log = tmp_path / "run.log"
    with running(settings, log, 1):
        published(settings, tmp_path / "first.jsonl", [*first, b'{"type": "page_view"}'])
        produced_by_others(settings)
        caught_up(settings, log)
        before = seen(settings)
        assert len(before["failed_events"]) > 2
        there = kafka_records(settings, *RAW_TOPICS.values())

        rebuilding = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "replay", "start"], env={**os.environ, **settings.environment()}, stderr=subprocess.PIPE
        )
        until(lambda: registry.read(settings).building, "it is known what is rebuilt")
        rebuilding.send_signal(signal.SIGSTOP)
        published(settings, tmp_path / "meanwhile.jsonl", meanwhile)
        rebuilding.send_signal(signal.SIGCONT)
        assert rebuilding.wait(240) == 0, rebuilding.communicate()
        assert registry.read(settings).of(2).about.records == there
        follows(settings, 2, log)
        caught_up(settings, log)
        assert seen(settings.of_generation(2)) == seen(settings)
        assert len(list(letters(settings, Which()))) == 2, "what one generation has buried the next one does not bury again"
        buried = kafka_records(settings, "dead-letters")
        assert buried == 2

        other = [word for override in OTHER for word in ("--set", override)]
        done(settings, "replay", "start", *other)
        follows(settings, 3, log)
        assert done(settings, "replay", "switch") == "readers see generation 3\n"
        published(settings, tmp_path / "later.jsonl", later)
        for number in (1, 2, 3):
            follows(settings, number, log)
        whole = [*first, *meanwhile, *later]
        is_as_resolved(resolution_in_clickhouse(settings), resolve_lines(enumerate(whole, 1), parse_policy("", OTHER)))
        done(settings, "replay", "switch", "1")
        is_as_resolved(resolution_in_clickhouse(settings), resolve_lines(enumerate(whole, 1), parse_policy("")))
        assert seen(settings.of_generation(2)) == seen(settings)

        told = json.loads(done(settings, "replay", "status", "--json"))
        assert [(each["generation"], each["live"], each["state"], each["behind"]) for each in told] == [
            (1, True, "following", 0),
            (2, False, "following", 0),
            (3, False, "following", 0),
        ]
        assert told[2]["policy"]["identity"]["rebind"] == "move_all"
        for dropped in ("2", "3"):
            assert done(settings, "replay", "drop", dropped) == f"nothing is left of generation {dropped}\n"
        assert "ended, as it is not needed any more" in log.read_text()
        caught_up(settings, log)
    is_as_resolved(resolution_in_clickhouse(settings), resolve_lines(enumerate(whole, 1), parse_policy("")))


def produced_by_others(settings: Settings) -> None:
    """A record that is no event."""
    producer = kafka.producer(settings)
    producer.produce(kafka.topic_name(settings, "page-views"), b"\x00not avro", b"key")
    assert producer.flush(30) == 0


def topics_of(settings: Settings) -> set[str]:
    return {topic for topic in kafka.reach(settings).topics if topic.startswith(settings.kafka.topic_prefix)}


def kafka_records(settings: Settings, *topics: str) -> int:
    with Readings(settings, ()) as readings:
        return sum(readings.ends(topics).values())


@pytest.mark.timeout(600)
def test_a_replay_that_was_killed_goes_on(settings: Settings, tmp_path: Path) -> None:
    """One at a time; a second start after kill -9 says that it goes on, and comes to what `resolve` says, of very late events too."""
    late = [line(page_view(100_000 + n, at=START - 30 * DAY, portal=1 + n % 3, utk=f"cookie-{n}")) for n in range(60)]
    lines = [*collisions(3 * EVENTS, seed=6), *late]
    published(settings, tmp_path / "events.jsonl", lines)
    start = [sys.executable, "-m", "pipeline", "replay", "start", "--set", OTHER[0], "--set", OTHER[1]]
    with subprocess.Popen(start, env={**os.environ, **settings.environment()}, stderr=subprocess.DEVNULL) as killed:
        deadline = time.monotonic() + 120
        while not ((building := registry.read(settings).building) and building.about.done):
            assert time.monotonic() < deadline
            assert killed.poll() is None
            time.sleep(0.2)
        killed.send_signal(signal.SIGSTOP)
        refused = command(settings, "replay", "start")
        assert refused.returncode == 1
        assert "generation 2 is being built by process" in refused.stderr
        killed.send_signal(signal.SIGKILL)
    assert registry.read(settings).of(2).state is State.BUILDING
    told = done(settings, "replay", "status")
    assert "stopped: `replay start` goes on" in told
    other = command(settings, "replay", "start", "--set", "sessions.gap=1m")
    assert (other.returncode, "was begun under another policy" in other.stderr) == (1, True)
    ended = command(settings, "replay", "start")
    assert ended.returncode == 0, ended.stderr
    assert "going on with generation 2" in ended.stderr
    is_as_resolved(resolution_in_clickhouse(settings.of_generation(2)), resolve_lines(enumerate(lines, 1), parse_policy("", OTHER)))


def test_two_starts_at_one_moment(settings: Settings) -> None:
    """Before either could say that it builds something, the other one says so, and leaves everything alone."""
    with alone(settings.data_dir / "rebuild" / "start.lock", "held by the test"):
        refused = command(settings, "replay", "start")
    assert (refused.returncode, refused.stderr) == (1, "error: another `replay start` begins at this moment: one at a time\n")
    assert [each.number for each in registry.read(settings).known] == [1]


@pytest.mark.timeout(300)
def test_from_a_time_on_and_a_dry_run(settings: Settings, tmp_path: Path) -> None:
    """Only what was published from then on is in the new generation. A dry run says how much it is, and changes nothing."""
    lines = collisions(600, seed=7)
    published(settings, tmp_path / "old.jsonl", lines[:300])
    time.sleep(0.1)
    moment = str(time.time_ns() // 1_000_000)
    time.sleep(0.1)
    published(settings, tmp_path / "new.jsonl", lines[300:])
    topics = topics_of(settings)
    whole = json.loads(done(settings, "replay", "start", "--dry-run", "--json"))
    assert whole["records"] == 600
    assert 600 * 100 < whole["bytes"] < 600 * 1000
    assert whole["is_rough"]
    assert "from a trial: decoding and folding 600 of them took" in whole["how"]
    part = done(settings, "replay", "start", "--dry-run", "--from", moment)
    assert part.startswith("300 raw records, about ")
    assert "nothing was done" in part
    assert registry.read(settings) == registry.FIRST
    assert topics_of(settings) == topics
    done(settings, "replay", "start", "--from", moment)
    expected = resolve_lines(enumerate(lines[300:], 1), parse_policy(""))
    is_as_resolved(resolution_in_clickhouse(settings.of_generation(2)), expected)


@pytest.mark.timeout(300)
def test_under_the_policy_of_a_file(settings: Settings, tmp_path: Path) -> None:
    """Read once: whatever becomes of the file, the generation keeps its policy. `--set` is laid over it."""
    lines = collisions(600, seed=9)
    published(settings, tmp_path / "events.jsonl", lines)
    file = tmp_path / "other.toml"
    absent = command(settings, "replay", "start", "--policy", str(file))
    assert (absent.returncode, absent.stderr.startswith(f"error: policy file {file} (--policy) does not exist")) == (2, True)
    assert registry.read(settings) == registry.FIRST
    text = '[sessions]\ngap = "1h"\n[identity]\nrebind = "move_all"\n'
    file.write_text(text)
    done(settings, "replay", "start", "--policy", str(file), "--set", "sessions.gap=5m")
    file.unlink()
    shown = resolution_in_clickhouse(settings.of_generation(2))
    policies = [parse_policy(*given) for given in (("",), (text,), (text, ["sessions.gap=5m"]))]
    usual, of_file, expected = (resolve_lines(enumerate(lines, 1), policy) for policy in policies)
    is_as_resolved(shown, expected)
    assert shown.links != usual.links
    assert shown.sessions != of_file.sessions
    _, second = json.loads(done(settings, "replay", "status", "--json"))
    assert (second["policy"]["sessions"]["gap"], second["policy"]["identity"]["rebind"]) == ("5m", "move_all")
