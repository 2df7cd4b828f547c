"""The fault suite finds what it is there for: each planted bug makes its comparison fail."""

import random
from collections.abc import Iterator

import pytest

from pipeline.settings import Settings
from tests.builders import MINUTE, START, line, page_view
from tests.end_to_end.collisions import collisions
from tests.faults.planted import BUGS
from tests.faults.system import System, whole_system

SEED = 1
LINES = 900


@pytest.fixture
def system(request: pytest.FixtureRequest, settings: Settings) -> Iterator[System]:
    with whole_system(SEED, bug=request.param, per_kind=1, settings=settings) as whole:
        yield whole


@pytest.mark.timeout(400)
@pytest.mark.parametrize("system", [None, *BUGS], ids=str, indirect=True)
def test_a_planted_bug_is_found(system: System, request: pytest.FixtureRequest) -> None:
    """And without one, the same events under the same conditions are as they should be."""
    with system.publishing(_lines()):
        for worker in list(system.workers):
            system.pause(0.2, 0.5)
            system.restart_if_dead()
            worker.kill()
            system.restart_if_dead()
        if request.node.callspec.params["system"] == "no_applied_offsets":
            system.redeliver("sessionize")
    system.settle()
    if request.node.callspec.params["system"] in (None, "a_lost_block_of_state"):
        _visit_for_nine_days(system)
    if request.node.callspec.params["system"] is None:
        system.compare()
    else:
        with pytest.raises(AssertionError):
            system.compare()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("system", ["no_applied_offsets"], indirect=True)
def test_a_bug_that_needs_a_fault_does_not_show_without_it(system: System) -> None:
    """So it was the fault, and not something else that the planted bug does, by which it was found."""
    with system.publishing(_lines()):
        system.all_at_work()
    system.settle()
    system.compare()


def _visit_for_nine_days(system: System) -> None:
    """One session, the beginning of which is forgotten meanwhile; its end arrives after the state was read back."""
    views = [line(page_view(700_000 + n, utk="walks on", at=START + n * 29 * MINUTE)) for n in range(460)]
    for some in (views[:-20], views[-20:-10], views[-10:]):
        with system.publishing(some):
            pass
        system.settle()
        system.kill_one("sessionize")


def _lines() -> list[bytes]:
    lines = [*collisions(LINES, SEED), *(line(page_view(800_000 + n, utk="gap", at=START + n * 30 * MINUTE)) for n in range(2))]
    random.Random(SEED).shuffle(lines)
    return lines
