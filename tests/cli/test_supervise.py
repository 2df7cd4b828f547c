"""The supervisor, with real child processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.app import ROLES
from pipeline.settings import Settings
from pipeline.supervise import Pauses, workers
from tests.waiting import until

SUPERVISING = """
import sys
from pipeline import logs, settings, supervise
logs.configure(settings.Log())
parts = [supervise.Part(f"part-{number}", (sys.executable, "-c", code)) for number, code in enumerate(sys.argv[1:])]
sys.exit(supervise.Supervisor(parts, pauses=supervise.Pauses(first_s=0.2, longest_s=0.4, stable_s=60)).run())
"""
REPLACING = """
import signal, sys
from pipeline import logs, settings, supervise
logs.configure(settings.Log())
parts = [supervise.Part(f"part-{number}", (sys.executable, "-c", code)) for number, code in enumerate(sys.argv[1:])]
supervisor = supervise.Supervisor(parts[:-1])
signal.signal(signal.SIGUSR1, lambda *_: supervisor.run_these(parts[1:]))
sys.exit(supervisor.run())
"""
"""All parts but the last; after SIGUSR1 all but the first."""
WAITS = "import time; print('ready', flush=True); time.sleep(600)"
IGNORES_SIGTERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
DIES = "import time; print('ready', flush=True); time.sleep(0.1); raise SystemExit(1)"
CANNOT_RUN = "raise SystemExit(2)"


class Supervised:
    """A supervisor in a process of its own, and what it wrote so far."""

    def __init__(self, log: Path, script: str, *codes: str) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen([sys.executable, "-c", script, *codes], stderr=output, stdout=output)

    @property
    def output(self) -> str:
        return self.log.read_text()

    def has_said(self, text: str, times: int = 1) -> None:
        until(lambda: self.output.count(text) >= times, lambda: f"{text!r} {times} times in:\n{self.output}")

    def children(self) -> list[int]:
        return [int(word.removeprefix("pid=")) for word in self.output.split() if word.startswith("pid=")]


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    """Starts a supervisor of parts that run the given codes; kills it after the test."""
    started: list[Supervised] = []

    def start(*codes: str, script: str = SUPERVISING) -> Supervised:
        started.append(Supervised(tmp_path / f"{len(started)}.log", script, *codes))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def is_gone(pid: int) -> bool:
    """Ended; a process that nobody waited for yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_parts_may_come_and_go(supervised: Callable[..., Supervised]) -> None:
    """One that is not wanted any more is stopped, a new one is started, and the one that stays is left alone."""
    run = supervised(WAITS, WAITS, WAITS, script=REPLACING)
    run.has_said("ready", times=2)
    first, second = run.children()
    run.process.send_signal(signal.SIGUSR1)
    run.has_said("part-2 | ready")
    run.has_said("ended, as it is not needed any more")
    assert is_gone(first)
    assert not is_gone(second)
    assert run.output.count("part-1 | ready") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_all(supervised: Callable[..., Supervised], number: signal.Signals) -> None:
    """One Ctrl-C or SIGTERM ends every part and then the supervisor, with exit code 0."""
    run = supervised(WAITS, WAITS)
    run.has_said("ready", times=2)
    run.process.send_signal(number)
    assert run.process.wait(timeout=5) == 0
    assert len(run.children()) == 2
    assert all(map(is_gone, run.children()))


def test_a_second_signal_kills(supervised: Callable[..., Supervised]) -> None:
    """A part that does not listen is killed at the second signal, long before the grace is over."""
    run = supervised(IGNORES_SIGTERM)
    run.has_said("ready")
    run.process.send_signal(signal.SIGINT)
    run.has_said("stopping")
    assert not is_gone(run.children()[0])
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(timeout=3) == 0
    assert is_gone(run.children()[0])


def test_dead_part_is_restarted(supervised: Callable[..., Supervised]) -> None:
    """A part that dies is started again after a pause, which the log says; its neighbour is left alone."""
    run = supervised(DIES, WAITS)
    run.has_said("died and will be restarted", times=3)
    assert "ended='exit code 1'" in run.output
    assert "restart_in_s=0.2" in run.output
    assert "restart_in_s=0.4" in run.output
    assert run.output.count("part-1 | ready") == 1


def test_killed_part_is_restarted(supervised: Callable[..., Supervised]) -> None:
    """The death of a part that is killed is one like any other."""
    run = supervised(WAITS)
    run.has_said("ready")
    os.kill(run.children()[0], signal.SIGKILL)
    run.has_said("ready", times=2)
    assert "ended='signal SIGKILL'" in run.output


def test_impossible_settings_stop_all(supervised: Callable[..., Supervised]) -> None:
    """A part that ends with exit code 2 is not started again: everything stops with that code."""
    run = supervised(CANNOT_RUN, WAITS)
    assert run.process.wait(timeout=10) == 2
    assert all(map(is_gone, run.children()))
    assert "part-0" in run.output


def test_lines_carry_the_part(supervised: Callable[..., Supervised]) -> None:
    """Every line of a part's output is shown behind the part's name."""
    run = supervised(WAITS, WAITS)
    run.has_said("part-0 | ready")
    run.has_said("part-1 | ready")


def test_nothing_survives_a_killed_supervisor(tmp_path: Path) -> None:
    """Killing the supervisor kills the workers, by way of the kernel: they are started by `run` and asked for it."""
    code = (
        "from pipeline.supervise import die_with; import sys, time; die_with(int(sys.argv[1])); print('ready', flush=True); time.sleep(600)"
    )
    starter = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {code!r}, str(os.getpid())], start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    log = tmp_path / "log"
    with log.open("wb") as output:
        parent = subprocess.Popen([sys.executable, "-c", starter], stdout=output)
    until(lambda: "ready" in log.read_text(), "the child is ready")
    child = int(log.read_text().split()[0])
    assert not is_gone(child)
    parent.kill()
    parent.wait()
    until(lambda: is_gone(child), "the child is gone")


def test_orphan_ends_at_once() -> None:
    """A part whose parent died before it could ask to die with it ends by itself."""
    code = "from pipeline.supervise import die_with; die_with(1 << 22); print('still here')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""


def test_pauses_double_up_to_the_longest() -> None:
    """Pauses double with each early death."""
    pauses = Pauses(first_s=1, longest_s=5, stable_s=60)
    taken = [0.0]
    for _ in range(5):
        taken.append(pauses.next(taken[-1], lived_s=3))
    assert taken[1:] == [1, 2, 4, 5, 5]


def test_pause_is_short_again_after_a_stable_life() -> None:
    """A part that lived for `stable_s` is forgiven; one that lived a little less is not."""
    pauses = Pauses(first_s=1, longest_s=30, stable_s=60)
    assert pauses.next(16, lived_s=60) == 1
    assert pauses.next(16, lived_s=59.9) == 30


def test_workers_of_run_die_with_it() -> None:
    """`run` tells every worker who its parent is, and gives each of a kind its own instance name."""
    parts = workers(ROLES, 2, Settings())
    assert [part.name for part in parts] == ["sessionize-0", "sessionize-1", "identify-0", "identify-1", "record-0", "record-1"]
    assert all(part.command[-2:] == ("--parent", str(os.getpid())) for part in parts)
    assert parts[1].name == "sessionize-1"
    assert parts[1].command[3:7] == ("worker", "sessionize", "--instance", "1")
