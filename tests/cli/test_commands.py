"""The commands as a user meets them: help, output, exit codes, and one clear message for whatever goes wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from polars.exceptions import PanicException

from pipeline import bugs, settings
from pipeline.app import ROLES
from pipeline.commands.parts import Role
from pipeline.edge import debug
from tests.builders import START, custom_event, form_submission, line, page_view
from tests.cli.conftest import Run

COMMANDS = [
    "resolve",
    "publish",
    "worker",
    "run",
    "timeline",
    "explain",
    "status",
    "config",
    "migrate",
    "topics",
    "dead-letters",
    "replay",
    "demo",
    "demo-site",
    "edge",
    "link",
    "debug",
]
NOTHING_LISTENS = "127.0.0.1:1"


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Example 1 of identity.md, and a line that is no event."""
    path = tmp_path / "events.jsonl"
    lines = [line(page_view(1)), line(form_submission(2, at=START + 1, email="a@x.io")), b'{"type": "page_view"}']
    path.write_bytes(b"\n".join(lines))
    return path


@pytest.mark.parametrize(
    "command",
    [
        [],
        *([command] for command in COMMANDS),
        ["topics", "create"],
        ["topics", "check"],
        *(["dead-letters", name] for name in ("stats", "list", "show", "requeue")),
        *(["replay", name] for name in ("start", "status", "diff", "switch", "drop")),
    ],
)
def test_every_command_has_help(run: Run, command: list[str]) -> None:
    """`--help` explains every command."""
    ended = run(*command, "--help")
    assert ended.code == 0
    assert "Usage: python -m pipeline" in ended.out


def test_help_lists_every_command(run: Run) -> None:
    """No command is hidden, and none is missing from the list above."""
    listed = [words[0] for words in map(str.split, run("--help").out.partition("Commands:")[2].splitlines()) if words]
    assert sorted(name for name in listed if name.islower()) == sorted(COMMANDS)


def test_module_can_be_run(events: Path) -> None:
    """`python -m pipeline` is the command; data goes to stdout."""
    ended = subprocess.run([sys.executable, "-m", "pipeline", "resolve", str(events)], capture_output=True, check=False)
    assert ended.returncode == 0
    assert len(json.loads(ended.stdout)["contacts"]) == 1


@pytest.mark.parametrize("command", ["config", "config --json", "--help", "resolve EVENTS"])
@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("> /dev/full", 1, "error: cannot write: No space left on device. Make room, or write to another place.\n"),
        ("| true", 1, ""),
        (">&-", 0, ""),
        ("2>&- > /dev/null", 0, ""),
    ],
)
def test_what_cannot_be_printed(events: Path, command: str, end: str, code: int, said: str) -> None:
    """A full disk is told as such, a reader that has gone is no failure to tell of, and closed streams are nowhere."""
    words = command.replace("EVENTS", str(events))
    whole = f"set -o pipefail; '{sys.executable}' -m pipeline {words} {end}"
    ended = subprocess.run(["bash", "-c", whole], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (code, said)


def test_another_encoding_of_the_terminal(tmp_path: Path) -> None:
    """What it cannot show is shown by its number."""
    (tmp_path / "pipeline.toml").write_text('policy_file = "é.toml"\n', encoding="utf-8")
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PIPELINE_CONFIG": str(tmp_path / "pipeline.toml")}
    ended = subprocess.run([sys.executable, "-m", "pipeline", "config"], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert r"\xe9.toml" in ended.stdout


def test_debug_does_not_command_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Visitors write what it shows."""
    monkeypatch.setattr(debug, "accepted", lambda *_: iter([custom_event(1, name="\x1b[2J\nfaked")]))
    assert run("debug", "--portal", "1").out.endswith(r"\x1b[2J\nfaked" + "\n")


def test_roles_are_the_parts() -> None:
    """`worker` knows every part of the pipeline, and no other."""
    assert [role.value for role in Role] == list(ROLES)


def test_resolve_prints_one_object(run: Run, events: Path) -> None:
    """`resolve` prints contacts, links, sessions, events and what was rejected."""
    printed = run("resolve", str(events)).out
    resolved = json.loads(printed)
    assert printed.endswith("}\n")
    assert list(resolved) == ["contacts", "links", "sessions", "events", "rejected"]
    assert [contact["email"] for contact in resolved["contacts"]] == ["a@x.io"]
    assert [(rejected["line"], rejected["reason"]) for rejected in resolved["rejected"]] == [(3, "missing_field")]


def test_resolve_under_another_policy(run: Run, events: Path, tmp_path: Path) -> None:
    """`--policy` names a file; `--set` wins over it."""
    policy = tmp_path / "policy.toml"
    policy.write_text('[sessions]\ngap = "0ms"\n')
    assert len(json.loads(run("resolve", str(events)).out)["sessions"]) == 1
    assert len(json.loads(run("resolve", str(events), "--policy", str(policy)).out)["sessions"]) == 2
    assert len(json.loads(run("resolve", str(events), "--policy", str(policy), "--set", "sessions.gap=1ms").out)["sessions"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resolve", "missing.jsonl"], "missing.jsonl"),
        (["publish", "missing.jsonl"], "missing.jsonl"),
        (["resolve", "."], "directory"),
        (["worker", "dance"], "dance"),
        (["timeline"], "--portal"),
        (["timeline", "--portal", "1"], "--email, --contact and --utk"),
        (["timeline", "--portal", str(2**63), "--utk", "0" * 32], "--portal"),
        (["timeline", "--portal", "1", "--email", "a@x.io", "--contact", "c"], "--email, --contact and --utk"),
        (["status", "--wait", "soon"], "--wait"),
        (["run", "--workers", "0"], "workers"),
        (["no-such-command"], "no-such-command"),
        (["--config", "missing.toml", "config"], "missing.toml"),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str], message: str) -> None:
    """Wrong usage is exit code 2 and a message that names what was wrong."""
    ended = run(*arguments)
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "identity.rebind=sometimes"], "identity.rebind = 'sometimes': expected one of from_now, keep_owner, move_all"),
        (["--set", "identity.rebnd=move_all"], "did you mean rebind?"),
        (["--set", "rebind"], "expected section.name=value"),
        (["--policy", "missing.toml"], "policy file missing.toml (--policy) does not exist"),
    ],
)
def test_wrong_policy(run: Run, events: Path, arguments: list[str], message: str) -> None:
    """A policy that cannot be is refused with its name, its value, and what is possible."""
    ended = run("resolve", str(events), *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_policy_file_of_the_settings(run: Run) -> None:
    """A worker whose policy file is not there says so at once, with the setting."""
    ended = run("worker", "sessionize", PIPELINE_POLICY_FILE="missing.toml", PIPELINE_KAFKA__BOOTSTRAP_SERVERS=NOTHING_LISTENS)
    assert ended.code == 2
    assert "policy file missing.toml (policy_file) does not exist" in ended.err


def test_unknown_setting(run: Run) -> None:
    """A misspelt setting stops every command that reads settings."""
    ended = run("config", PIPELINE_CLICKHOUSE__PROT="9000")
    assert ended.code == 2
    assert "unknown setting PIPELINE_CLICKHOUSE__PROT in the environment: did you mean PIPELINE_CLICKHOUSE__PORT?" in ended.err


@pytest.mark.parametrize("command", [["publish", "EVENTS"], ["status"], ["run"]])
def test_kafka_is_not_there(run: Run, events: Path, command: list[str]) -> None:
    """Without a broker: one message that names the setting, its value, and what to do."""
    arguments = [str(events) if word == "EVENTS" else word for word in command]
    ended = run(*arguments, PIPELINE_KAFKA__BOOTSTRAP_SERVERS=NOTHING_LISTENS)
    assert ended.code == 1
    assert f"kafka.bootstrap_servers is '{NOTHING_LISTENS}'" in ended.err
    assert "make up" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", [["migrate"], ["timeline", "--portal", "1", "--email", "a@x.io"]])
def test_clickhouse_is_not_there(run: Run, command: list[str]) -> None:
    """The same for ClickHouse."""
    ended = run(*command, PIPELINE_CLICKHOUSE__HOST="127.0.0.1", PIPELINE_CLICKHOUSE__PORT="1")
    assert ended.code == 1
    assert "clickhouse.host and clickhouse.port are 127.0.0.1:1" in ended.err
    assert "make up" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("kind", [ZeroDivisionError, PanicException])
def test_bug_is_not_a_users_error(run: Run, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]) -> None:
    """What nobody expected shows what kind it is and where it happened, and nothing that it says; exit code 1."""

    def fail(*_: object) -> None:
        raise kind("somebody@x.io")

    monkeypatch.setattr(settings, "load", fail)
    ended = run("config")
    assert (ended.code, ended.out) == (1, "")
    heading, first, *_, last, named, what_to_do = ended.err.splitlines()
    assert heading == bugs.HEADING
    assert re.fullmatch(r"  pipeline/commands/\w+\.py:\d+ \w+", first)
    assert re.fullmatch(r"  tests/cli/test_commands\.py:\d+ test_bug_is_not_a_users_error\.<locals>\.fail", last)
    assert named.endswith(kind.__name__)
    assert "a bug" in what_to_do
    assert "somebody" not in ended.err


def test_config_as_json(run: Run) -> None:
    """`config --json` has every setting with its source, secrets masked."""
    shown = json.loads(run("config", "--json", PIPELINE_CLICKHOUSE__PASSWORD="hidden").out)
    assert shown["kafka.bootstrap_servers"]["value"] == "127.0.0.1:9092"
    assert shown["clickhouse.password"]["value"] == "********"
    assert shown["clickhouse.password"]["where"] == "PIPELINE_CLICKHOUSE__PASSWORD"


def test_config_as_table(run: Run) -> None:
    """`config` shows the same to people."""
    shown = run("config", PIPELINE_CLICKHOUSE__PASSWORD="hidden", PIPELINE_LOG__LEVEL="debug").out
    assert "hidden" not in shown
    rows = {words[0]: words[1:] for words in map(str.split, shown.splitlines()) if words}
    assert rows["log.level"] == ["debug", "PIPELINE_LOG__LEVEL"]
    assert rows["clickhouse.port"] == ["9000", "default"]
