"""Servers and parts of one's own for as long as a demonstration or a measurement lasts; then no process is left of them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from infra import servers
from pipeline import settings as reading
from pipeline.alone import alone
from pipeline.settings import Settings
from pipeline.settings_sources import FILE_VARIABLE, NO_FILE, PREFIX
from pipeline.supervise import GRACE_S

console = Console(stderr=True, highlight=False)


@dataclass(frozen=True, slots=True)
class Stage:
    """Running servers, and where the parts' output goes."""

    settings: Settings
    log: Path
    pids: Mapping[str, int]
    """Of the servers, by name."""


@contextmanager
def stage(directory: Path) -> Iterator[Stage]:
    """Embedded servers on fresh data in `directory`; whatever PIPELINE_ variables and settings files say elsewhere does not count.

    However the block ends (Ctrl-C, SIGTERM and kill -9 included), the servers end too. UserError if `directory` is in use.
    """
    in_use = f"{directory} is in use by another demo or benchmark: end that first (Ctrl-C where it runs)"
    with _ended_by_signals(), alone(directory.with_suffix(".lock"), in_use), ExitStack() as put_away:
        servers.stop(directory)
        shutil.rmtree(directory, ignore_errors=True)
        embedded = put_away.enter_context(servers.embedded(directory))
        try:
            yield Stage(settings_of(directory), directory / "run.log", embedded.pids)
        finally:
            with _deaf():
                put_away.close()


@contextmanager
def running(stage: Stage, workers: int = 1, *, edge: bool = False) -> Iterator[int]:
    """All parts, with the collector if `edge`, as `python -m pipeline run` starts them; gives the supervisor's process id."""
    command = [sys.executable, "-m", "pipeline", "run", "--workers", str(workers), "--parent", str(os.getpid())]
    if edge:
        command.append("--edge")
    with stage.log.open("ab") as log:
        run = subprocess.Popen(
            command,
            env={**os.environ, **stage.settings.environment()},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield run.pid
    finally:
        with _deaf():
            run.terminate()
            try:
                run.wait(GRACE_S + 5)
            except subprocess.TimeoutExpired:
                run.kill()  # the parts die with it
                run.wait()


@contextmanager
def step(done: str) -> Iterator[None]:
    """Says what was done, and how long it took."""
    began = time.monotonic()
    with console.status(f"{done} ..."):
        yield
    console.print(f"[green]✓[/] {done} [dim]({time.monotonic() - began:.1f} s)")


def settings_of(directory: Path) -> Settings:
    """The settings that lead to the servers in `directory`, from now on also for this process and its children."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        del os.environ[name]
    os.environ[FILE_VARIABLE] = NO_FILE
    return reading.load(data_dir=directory)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Signals end the block with an exception, so that everything is put away; SIGINT also where a shell had it ignored (`&`)."""

    def end(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _deaf() -> Iterator[None]:
    """A further Ctrl-C must not interrupt the putting away; that takes seconds at most."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
