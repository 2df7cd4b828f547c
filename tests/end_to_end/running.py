"""Running the product as a user does: commands as processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.settings import Settings

WAIT_S = 180


def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m pipeline ...` under these settings."""
    whole = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(whole, env=_environment(settings), text=True, capture_output=True, timeout=WAIT_S + 60, check=False)


@contextmanager
def running(settings: Settings, log: Path, workers: int) -> Iterator[subprocess.Popen[bytes]]:
    """The whole pipeline, with so many processes of each part, until the block ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "run", "--workers", str(workers)],
            env=_environment(settings),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(30)


def caught_up(settings: Settings, log: Path) -> None:
    """Returns when ClickHouse shows all that was published."""
    status = command(settings, "status", "--wait", str(WAIT_S))
    assert status.returncode == 0, f"{status.stdout}\n{status.stderr}\n{log.read_text()[-5000:]}"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _environment(settings: Settings) -> dict[str, str]:
    return {**os.environ, **settings.environment(), "COLUMNS": "200"}
