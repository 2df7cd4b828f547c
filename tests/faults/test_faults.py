"""Whatever fails, every accepted record is in the timelines exactly once, or among the failed events with its reason.

One system lives through all faults, while events are published; after each it heals, and ClickHouse is compared with `resolve` of the
ledger. Their order, moments and victims are drawn: `SEED=n make test-faults` repeats a run, `ROUNDS=n` goes through the faults n times.
With `FAULTS_MINUTES=n`, as in `make test`, one of each class comes first, whatever time it takes; of the others those that do not fit
into the time are skipped. Which they are differs from seed to seed.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.app import ROLES
from tests.end_to_end.collisions import collisions
from tests.faults import on_neighbours, on_records, on_workers
from tests.faults.system import PER_KIND, System, whole_system

SEED = int(os.environ.get("SEED") or random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID")).randrange(1_000_000))
"""Processes of one run of pytest collect the same tests, so they draw the same."""
ROUNDS = int(os.environ.get("ROUNDS", "1"))
MINUTES = float(os.environ.get("FAULTS_MINUTES") or "inf")
LINES = 900
"""Lines that are published during each fault."""
CLASSES = {**on_records.FAULTS, **on_workers.FAULTS, **on_neighbours.FAULTS}
FAULTS: dict[str, Callable[[System], None]] = {name: fault for faults in CLASSES.values() for name, fault in faults.items()}


def _order(round_: int) -> Iterator[str]:
    """All faults, one of each class first."""
    rng = random.Random(f"{SEED} {round_}")
    first = [rng.choice(list(faults)) for faults in CLASSES.values()]
    others = [name for name in FAULTS if name not in first]
    yield from rng.sample(first, len(first))
    yield from rng.sample(others, len(others))


RUNS = [(round_, name) for round_ in range(ROUNDS) for name in _order(round_)]
ALWAYS = frozenset(RUNS[: len(CLASSES)])
LINES_OF = dict(zip(RUNS, range(0, len(RUNS) * LINES, LINES), strict=True))


class Budget:
    """Time for all faults together: one that would probably not end in it does not begin, unless it is the first of its class."""

    def __init__(self) -> None:
        self._ends = time.monotonic() + MINUTES * 60
        self._longest = 0.0

    @contextmanager
    def spent(self, run: tuple[int, str]) -> Iterator[None]:
        """Skips the test if there is too little left."""
        began = time.monotonic()
        if began + self._longest > self._ends and run not in ALWAYS:
            pytest.skip(f"no time left of FAULTS_MINUTES={MINUTES:g}: `SEED={SEED} make test-faults` has all faults, in this order")
        yield
        self._longest = max(self._longest, time.monotonic() - began)


@pytest.fixture(scope="module")
def budget() -> Budget:
    return Budget()


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    print(f"SEED={SEED}")
    with whole_system(SEED) as whole:
        yield whole


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """All that is published, shuffled: late, repeated, incomplete and conflicting events are everywhere."""
    drawn = collisions(len(RUNS) * LINES, SEED)
    random.Random(SEED).shuffle(drawn)
    return drawn


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("round_", "name"), RUNS, ids=[f"{name} {round_}" for round_, name in RUNS])
def test_nothing_is_lost_and_nothing_doubled(
    budget: Budget, system: System, lines: list[bytes], round_: int, name: str, tmp_path: Path
) -> None:
    print(f"SEED={SEED}")
    if name in on_neighbours.ON_SMALL_DISKS and not on_neighbours.can_mount(tmp_path):
        pytest.skip("a small disk cannot be mounted here: that needs root")
    start = LINES_OF[round_, name]
    with budget.spent((round_, name)):
        with system.publishing(lines[start : start + LINES]):
            FAULTS[name](system)
        system.check()
    assert all(len(system.of(kind)) == PER_KIND for kind in ROLES)
