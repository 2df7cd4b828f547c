"""Worker processes of tests: forks of one process that has imported everything, which takes seconds, and forking does not."""

import multiprocessing
import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.agents.counting", "tests.faults.planted", "pipeline.agents.harness", "pipeline.agents.worker"])


class Forked:
    """A process that does `work(*arguments)`."""

    def __init__(self, work: Callable[..., Any], *arguments: object) -> None:
        self._process = CONTEXT.Process(target=_ending_with, args=(os.getpid(), work, *arguments), daemon=True)
        self._process.start()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def signal(self, number: signal.Signals) -> None:
        if self._process.is_alive():
            os.kill(self._process.pid or 0, number)

    def kill(self) -> None:
        """Kill -9."""
        self._process.kill()
        self._process.join()

    def wait(self, seconds: float) -> int | None:
        """The exit code, None if it is still alive then."""
        self._process.join(seconds)
        return self._process.exitcode


def _ending_with(parent: int, work: Callable[..., Any], *arguments: object) -> None:
    """Does the work, and ends when the tests' process does, by kill -9 too: the process that was forked may outlive it."""
    watched = os.pidfd_open(parent)

    def watch() -> None:
        select.select([watched], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    work(*arguments)
