"""Whatever fails, every accepted record is in the timelines exactly once, or among the failed events with its reason.

One system lives through all faults, while events are published; after each it heals, and ClickHouse is compared with `resolve` of the
ledger. Moments and victims are drawn: `SEED=n make test-faults` repeats a run, `ROUNDS=n` goes through the faults n times.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from pipeline import catching_up
from pipeline.adapters.avro import Registry
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.agents.worker import DRAIN_S
from pipeline.app import ROLES
from pipeline.settings import Settings
from tests.builders import START, custom_event, form_submission, page_view
from tests.end_to_end.collisions import collisions
from tests.faults.system import PER_KIND, System, whole_system

SEED = int(os.environ.get("SEED", random.SystemRandom().randrange(1_000_000)))
ROUNDS = int(os.environ.get("ROUNDS", "1"))
LINES = 900
"""Lines that are published during each fault."""
BEYOND_SESSION_S = 14.0
"""Longer than the group waits for a silent worker."""
REGISTRY = Registry(Settings())


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    print(f"SEED={SEED}")
    with whole_system(SEED) as whole:
        yield whole


def a_worker_is_killed(kind: str) -> Callable[[System], None]:
    """Kill -9 at random moments; a supervisor starts it again."""

    def fault(system: System) -> None:
        for _ in range(3):
            system.pause(0.1, 1.5)
            system.kill_one(kind)

    return fault


def a_zombie(kind: str) -> Callable[[System], None]:
    """Stopped beyond its session: the other takes over; then it wakes up."""

    def fault(system: System) -> None:
        system.pause(0.1, 1.0)
        zombie = system.rng.choice(system.of(kind))
        zombie.signal(signal.SIGSTOP)
        time.sleep(BEYOND_SESSION_S)
        zombie.signal(signal.SIGCONT)
        system.pause(1.0, 2.0)
        if not zombie.is_alive():  # a zombie that finds out may end, and a supervisor starts it again
            system.end(zombie)
            system.start(kind, zombie.instance)

    return fault


def all_workers_are_killed(system: System) -> None:
    """At once."""
    system.pause(0.5, 2.0)
    for worker in list(system.workers):
        worker.kill()
        system.end(worker)
        system.start(worker.kind, worker.instance)


def workers_come_and_go(system: System) -> None:
    """One more of each kind without a name, then one less by SIGTERM, which drains, and one less by kill -9."""
    more = [system.start(kind) for kind in ROLES]
    assert catching_up.wait_for_processes(system.settings, PER_KIND + 1, 90)
    for worker in more:
        code, seconds = worker.terminate()
        assert (code, seconds < DRAIN_S + 2) == (0, True)
        system.end(worker)
    for kind in ROLES:
        system.kill_one(kind)


def clickhouse_is_killed(system: System) -> None:
    system.pause(0.3, 1.5)
    system.kill_server("clickhouse", away_s=5)


def kafka_is_killed(system: System) -> None:
    system.pause(0.3, 1.5)
    system.kill_server("kafka", away_s=5)


def poison(system: System) -> None:
    """Bytes that are no events between those that are, and a good one without a key."""
    view = REGISTRY.encode_event(page_view(900_001, at=START, title="Truncated", properties={"plan": "pro"}))
    form = REGISTRY.encode_event(form_submission(900_002, at=START, fields=[("a", "b")]))
    bomb = form.replace(b"\x02\x02\x02a\x02b\x00", b"\x02\xfe\xff\xff\xff\x0f")
    assert bomb != form
    for topic, key, values in (
        ("page-views", b"k", [view[:size] for size in range(1, len(view), 3)]),
        ("page-views", None, [system.rng.randbytes(size) for size in range(20, 60)]),
        ("page-views", b"k", [None, b"\x01" + view[1:], b"\x00\x00\x00\x03\xe7" + view[5:], view + b"\x00"]),
        ("form-submissions", b"k", [bomb, view]),
    ):
        system.produce(topic, key, values)
        system.poison |= {(topic, (value or b"").hex().upper()) for value in values}
    keyless = custom_event(900_003, at=START)
    system.produce(RAW_TOPICS["custom_event"], None, [REGISTRY.encode_event(keyless)])
    system.ledger.append(keyless)


def duplicates(system: System) -> None:
    """What was published an hour ago is published again, in another order."""
    again = system.rng.sample(system.ledger, min(len(system.ledger), 500))
    for event in again:
        key = (event.utk or event.event_id).encode()
        system.produce(RAW_TOPICS[event.type], key, [REGISTRY.encode_event(event)])


FAULTS: dict[str, Callable[[System], None]] = {
    "poison": poison,
    **{f"{kind} is killed": a_worker_is_killed(kind) for kind in ROLES},
    "all workers are killed": all_workers_are_killed,
    "ClickHouse is killed": clickhouse_is_killed,
    "Kafka is killed": kafka_is_killed,
    **{f"a zombie {kind}": a_zombie(kind) for kind in ROLES},
    "workers come and go": workers_come_and_go,
    "duplicates": duplicates,
}
RUNS = [(round_, name) for round_ in range(ROUNDS) for name in FAULTS]
LINES_OF = dict(zip(RUNS, range(0, len(RUNS) * LINES, LINES), strict=True))


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """All that is published, shuffled: late, repeated, incomplete and conflicting events are everywhere."""
    drawn = collisions(len(RUNS) * LINES, SEED)
    random.Random(SEED).shuffle(drawn)
    return drawn


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("round_", "name"), RUNS, ids=[f"{name} {round_}" for round_, name in RUNS])
def test_nothing_is_lost_and_nothing_doubled(system: System, lines: list[bytes], round_: int, name: str) -> None:
    print(f"SEED={SEED}")
    start = LINES_OF[round_, name]
    with system.publishing(lines[start : start + LINES]):
        FAULTS[name](system)
    system.check()
    assert all(len(system.of(kind)) == PER_KIND for kind in ROLES)
