"""A pair of servers of its own on which Kafka asks for credentials, and a run of the whole pipeline on them."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.servers import Servers, embedded
from pipeline.adapters import acls, clickhouse, topics
from pipeline.settings import Settings
from tests.end_to_end.running import caught_up, children, command, running
from tests.security.secured import settings_of
from tests.security.twins import MARKS, twins

EVENTS = 1_500
NO_EVENT = b'{"type": "nonsense", "email": "canary-person@secret.example"}'


@dataclass(frozen=True, slots=True)
class Run:
    """What went in, by portal; all that was printed and logged; command lines and environments of the processes meanwhile."""

    lines: dict[int, list[bytes]]
    log: str
    printed: str
    command_lines: str
    environments: dict[str, dict[str, str]]
    """By part."""


@pytest.fixture(scope="session")
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="secured-") as scratch:
        yield Path(scratch) / "servers"


@pytest.fixture(scope="session")
def secured(data_dir: Path) -> Iterator[Servers]:
    """With the topics of the default names and every right granted; each portal has an analyst."""
    with embedded(data_dir, secure=True, portals=MARKS) as running:
        settings = settings_of(running)
        topics.create_topics(settings)
        acls.apply_rights(settings)
        clickhouse.migrate(settings)
        yield running


@pytest.fixture
def settings(secured: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """An administrator's settings; nothing of the surroundings is in them."""
    for name in [name for name in os.environ if name.upper().startswith("PIPELINE_")]:
        monkeypatch.delenv(name)
    return settings_of(secured, tmp_path)


@pytest.fixture(scope="session")
def run(secured: Servers, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two portals with equal ids through the whole pipeline, each part with its own user."""
    directory = tmp_path_factory.mktemp("run")
    settings, log = settings_of(secured, directory), directory / "run.log"
    lines = twins(EVENTS, seed=7)
    events = directory / "events.jsonl"
    events.write_bytes(b"\n".join([*lines[1], *lines[2], NO_EVENT]))
    with running(settings, log, workers=1) as supervisor:
        published = command(settings, "publish", str(events))
        assert published.returncode == 0, published.stderr
        workers = children(supervisor.pid)
        command_lines = "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in (*workers, supervisor.pid, *secured.pids.values()))
        environments = {_part(pid): _environment(pid) for pid in workers}
        caught_up(settings, log)
    shown = [command(settings, *arguments) for arguments in (("dead-letters", "stats"), ("dead-letters", "list"), ("config",), ("status",))]
    assert [ended.returncode for ended in shown] == [0, 0, 0, 0], [ended.stderr for ended in shown]
    printed = published.stdout + published.stderr + "".join(ended.stdout + ended.stderr for ended in shown)
    return Run(lines, log.read_text(), printed, command_lines, environments)


def _part(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[4]


def _environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
