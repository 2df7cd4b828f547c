"""`run` with its real workers on the real servers: it starts every part, and no process outlives it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.app import ROLES
from pipeline.settings import Settings
from tests.cli.test_supervise import is_gone
from tests.waiting import until

START_S = 100


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Iterator["Run"]:
    """`run`, until every part is ready."""
    running = Run(settings, tmp_path / "run.log")
    try:
        running.is_ready()
        yield running
    finally:
        running.process.kill()
        running.process.wait()


class Run:
    """The command as a process."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", "run"], env={**os.environ, **settings.environment()}, stdout=output, stderr=output
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def is_ready(self) -> None:
        until(
            lambda: all(f"{role}-0" in line_of(self.output, role) for role in ROLES),
            lambda: f"every part is ready:\n{self.output}",
            START_S,
        )

    def workers(self) -> list[int]:
        return [int(word.removeprefix("pid=")) for word in self.output.split() if word.startswith("pid=")]


def line_of(output: str, role: str) -> str:
    """The line in which a part says that it is ready."""
    return next((line for line in output.splitlines() if line.startswith(role) and " ready " in line), "")


@pytest.mark.timeout(180)
def test_sigterm_ends_every_part(run: Run) -> None:
    """One signal: every part finishes what it has, and all processes have ended within 15 s, with exit code 0."""
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(timeout=15) == 0
    assert len(run.workers()) == len(ROLES)
    assert all(map(is_gone, run.workers()))
    assert "killed" not in run.output


@pytest.mark.timeout(180)
def test_kill_leaves_no_worker(run: Run) -> None:
    """Killing `run` itself kills its workers."""
    run.process.kill()
    run.process.wait()
    until(lambda: all(map(is_gone, run.workers())), "the workers are gone")


@pytest.mark.timeout(180)
def test_a_second_run_beside_the_first_is_refused(run: Run, settings: Settings, tmp_path: Path) -> None:
    """Their processes would have the same names, and throw each other out of Kafka's groups without end."""
    second = Run(settings, tmp_path / "second.log")
    assert second.process.wait(timeout=30) == 1
    assert f"error: data_dir is '{settings.data_dir}': another `run` works there" in second.output
    assert not any(map(is_gone, run.workers()))


@pytest.mark.timeout(180)
def test_a_data_directory_that_cannot_be_written_keeps_nobody_from_working(settings: Settings, tmp_path: Path) -> None:
    """With servers elsewhere nothing that matters is in it."""
    (tmp_path / "file").touch()
    running = Run(settings.model_copy(update={"data_dir": tmp_path / "file"}), tmp_path / "run.log")
    try:
        running.is_ready()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=15) == 0
    finally:
        running.process.kill()
        running.process.wait()
