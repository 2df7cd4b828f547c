"""Server processes: started in a session of their own, recognised later by pid and start time, stopped with a time limit.

A process either survives its parent (`make up`) or ends with it, whatever ends the parent (tests, demo): then it is
started through this module as a program, which asks Linux for SIGKILL at the parent's death and becomes the server.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
STOP_SECONDS = 15.0
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Identity:
    """A process for sure: pids are used again, but not with the same start time."""

    pid: int
    started: int
    """Clock ticks since the machine was booted (field 22 of /proc/PID/stat)."""

    def is_running(self) -> bool:
        return _stat(self.pid)[:2] == (self.started, True)


def identity(pid: int) -> Identity:
    return Identity(pid, _stat(pid)[0])


def _stat(pid: int) -> tuple[int, bool]:
    """Start time (-1: there is no such process) and whether it lives: a zombie does while it has threads, which keep its ports."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1, False
    state, threads, started = fields[0], int(fields[17]), int(fields[19])
    return started, state not in "ZX" or threads > 1


def spawn(command: Sequence[str], log: Path, environment: Mapping[str, str], *, ends_with_parent: bool) -> Identity:
    """Start it with its output appended to `log`. With `ends_with_parent` the calling thread must live as long as the server.

    Settings of the pipeline, which may be secrets, are none of its business.
    """
    if ends_with_parent:
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if not name.upper().startswith("PIPELINE_")} | dict(environment),
            start_new_session=True,
        )
    return identity(process.pid)


def stop(processes: Sequence[Identity], seconds: float = STOP_SECONDS) -> None:
    """SIGTERM to all, and SIGKILL to those that still live after `seconds`. Returns when all are gone."""
    _signal(processes, signal.SIGTERM)
    if not _wait(processes, seconds):
        _signal(processes, signal.SIGKILL)
        _wait(processes, seconds)


def _signal(processes: Sequence[Identity], number: signal.Signals) -> None:
    for process in processes:
        if process.is_running():
            os.kill(process.pid, number)


def _wait(processes: Sequence[Identity], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(process.is_running() for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    for process in processes:
        _reap(process.pid)
    return True


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):  # started by another process
        os.waitpid(pid, os.WNOHANG)


def _become(parent: int, command: list[str]) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)  # it died before we asked
    os.execvp(command[0], command)  # noqa: S606  # the command is ours


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
