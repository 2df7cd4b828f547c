import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra import processes
from infra.processes import Identity
from tests.waiting import until

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
]
PARENT = """
import sys, time
from pathlib import Path
from infra import processes
child = processes.spawn([sys.executable, "-c", "import time; time.sleep(60)"], Path(sys.argv[1]), {{}}, ends_with_parent={ends_with_parent})
print(child.pid, child.started, flush=True)
time.sleep(60)
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def sleeper(log: Path) -> Iterator[Identity]:
    process = processes.spawn(SLEEP, log, {}, ends_with_parent=True)
    yield process
    processes.stop([process], seconds=1)


def orphan(log: Path, *, ends_with_parent: bool) -> Identity:
    """A child whose parent has been killed."""
    program = PARENT.format(ends_with_parent=ends_with_parent)
    with subprocess.Popen([sys.executable, "-c", program, str(log)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid, started = parent.stdout.readline().split()
        parent.kill()
    return Identity(int(pid), int(started))


def test_a_process_is_running_until_it_is_stopped(sleeper: Identity) -> None:
    assert sleeper.is_running()
    processes.stop([sleeper])
    assert not sleeper.is_running()


def test_a_later_process_under_the_same_pid_is_another_one(sleeper: Identity) -> None:
    """Neither taken for ours nor signalled."""
    before = replace(sleeper, started=sleeper.started - 1)
    assert not before.is_running()
    processes.stop([before])
    assert sleeper.is_running()


def test_a_process_that_ignores_sigterm_is_killed(log: Path) -> None:
    deaf = processes.spawn(DEAF, log, {}, ends_with_parent=True)
    until(lambda: log.read_text() == "deaf\n")
    processes.stop([deaf], seconds=0.2)
    assert not deaf.is_running()


def test_ctrl_c_in_a_terminal_does_not_reach_it(sleeper: Identity) -> None:
    assert os.getsid(sleeper.pid) == sleeper.pid != os.getsid(0)


def test_it_ends_with_a_parent_that_is_killed(log: Path) -> None:
    child = orphan(log, ends_with_parent=True)
    until(lambda: not child.is_running(), seconds=10)


def test_it_outlives_its_parent_if_it_shall(log: Path) -> None:
    child = orphan(log, ends_with_parent=False)
    time.sleep(0.2)
    assert child.is_running()
    os.kill(child.pid, signal.SIGKILL)


def test_output_and_environment(log: Path) -> None:
    """Output is appended to the log, variables are added to ours."""
    log.write_text("before\n")
    talker = processes.spawn([sys.executable, "-c", "import os; print(os.environ['WORD'])"], log, {"WORD": "said"}, ends_with_parent=True)
    until(lambda: not talker.is_running())
    assert log.read_text() == "before\nsaid\n"
