"""Secrets come from settings or files, and are seen nowhere else: logs, output, errors, command lines, files, other parts' environments."""

import os
import stat
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.servers import Servers
from pipeline import settings as reading
from pipeline.effective import effective
from pipeline.errors import UsageError
from pipeline.settings import Settings
from tests.end_to_end.running import command
from tests.security.conftest import Run
from tests.security.twins import CANARY_ADDRESS, MARKS

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def passwords(secured: Servers) -> set[str]:
    """All that there are: the real ones are the canaries."""
    at = secured.clickhouse
    kafka = {options["sasl.password"] for options in (secured.kafka.options, *secured.kafka.principals.values())}
    return kafka | {at.password, at.analyst_password} | {login["password"] for login in at.portal_analysts.values()}


def test_nothing_that_is_printed_or_logged_has_a_secret(run: Run, passwords: set[str]) -> None:
    """Neither passwords nor what people typed: addresses, titles."""
    assert len(passwords) == 13
    for said in (run.log, run.printed, run.command_lines):
        assert not [secret for secret in passwords if secret in said]
        assert CANARY_ADDRESS.lower() not in said.lower()
        assert not [mark for mark in MARKS.values() if mark in said]
    assert "sessionize" in run.command_lines
    assert "kafka.Kafka" in run.command_lines


def test_the_servers_logs_have_no_secret(run: Run, data_dir: Path, passwords: set[str]) -> None:
    logs = [path.read_text(errors="replace") for path in (data_dir / "logs").iterdir()]
    assert sum(map(len, logs)) > 10_000
    assert not [secret for secret in passwords for log in logs if secret in log]


def test_files_with_secrets_are_for_their_owner_only(run: Run, data_dir: Path, passwords: set[str]) -> None:
    """Every small file of the data directory is looked at; the directory itself is closed, too."""
    holding = set()
    for path in (path for path in data_dir.rglob("*") if path.is_file() and path.stat().st_size < 1_000_000 and "data" not in path.parts):
        if any(secret.encode() in path.read_bytes() for secret in passwords):
            holding.add(path.name)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert holding == {"servers.json", "passwords.json", "kafka-passwords.json", "server.properties"}
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


def test_a_part_has_its_own_secrets_only(run: Run, secured: Servers, passwords: set[str]) -> None:
    needed = {part: {secured.kafka.principals[part]["sasl.password"]} for part in ("sessionize", "identify", "record")}
    needed["record"].add(secured.clickhouse.password)
    held = {
        part: {secret for secret in passwords for value in environment.values() if secret in value}
        for part, environment in run.environments.items()
    }
    assert held == needed


def test_the_servers_have_none_of_our_settings(secured: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid in secured.pids.values():
        assert "PIPELINE_" not in Path(f"/proc/{pid}/environ").read_text()


# From files


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in [name for name in os.environ if name.upper().startswith("PIPELINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("from-a-file\n")
    return tmp_path


def test_every_secret_may_stand_in_a_file(nothing_set: Path) -> None:
    """In the settings file or the environment; the line's end is not part of it, and a child process gets the secret itself."""
    Path("pipeline.toml").write_text(
        """
        [kafka.options]
        sasl_password_file = "secret"
        ssl_key_password_file = "secret"
        [kafka.principals.sessionize]
        sasl_username = "worker-1"
        sasl_password_file = "secret"
        [clickhouse]
        password_file = "secret"
        analyst_password_file = "secret"
        [schema_registry]
        password_file = "secret"
        """
    )
    os.environ["PIPELINE_KAFKA__PRINCIPALS__DEAD_LETTERS__SASL_PASSWORD_FILE"] = str(nothing_set / "secret")
    loaded = reading.load()
    assert loaded.kafka.options == {"sasl.password": "from-a-file", "ssl.key.password": "from-a-file"}
    assert loaded.kafka.principals["sessionize"] == {"sasl.username": "worker-1", "sasl.password": "from-a-file"}
    assert loaded.kafka.principals["dead-letters"] == {"sasl.password": "from-a-file"}
    assert loaded.clickhouse.password.get_secret_value() == "from-a-file"
    assert loaded.clickhouse.analyst_password.get_secret_value() == "from-a-file"
    assert loaded.schema_registry.password.get_secret_value() == "from-a-file"
    assert "from-a-file" not in " ".join(str(setting.as_dict()) for setting in effective(loaded)) + repr(loaded)
    shown = {setting.name: setting for setting in effective(loaded)}
    assert (shown["clickhouse.password"].value, shown["clickhouse.password"].where) == ("********", "pipeline.toml")


def test_a_child_of_a_process_that_read_secrets_from_files(nothing_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("pipeline.toml").write_text('[clickhouse]\npassword_file = "secret"\n[kafka.principals.record]\nsasl_password_file = "secret"\n')
    record = reading.load().acting_as("record")
    for name, value in record.environment().items():
        monkeypatch.setenv(name, value)
    seen = reading.load()
    assert seen.clickhouse.password == record.clickhouse.password
    assert seen.kafka == record.kafka


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[clickhouse]\npassword_file = "none"\n', "setting clickhouse .*: password_file names none, which cannot be read: No such file"),
        ('[clickhouse]\npassword_file = "empty"\n', "password_file names empty, which is empty"),
        ('[clickhouse]\npassword_file = "secret"\npassword = "canary"\n', "password and password_file are both given: keep one"),
        (
            '[kafka.options]\nsasl_password_file = "none"\n',
            r"setting kafka.options .*: sasl.password.file names none, which cannot",
        ),
        (
            '[kafka.options]\nsasl_password_file = "secret"\nsasl_password = "canary"\n',
            "sasl.password and sasl.password.file are both",
        ),
        ('[kafka.principals.sesionize]\nsasl_password = "canary"\n', "sesionize is no principal; principals are edge, publish"),
        ('[kafka.principals]\nrecord = "canary"\n', "setting kafka.principals.record .*: input should be a valid dictionary"),
        ('clickhouse = "canary"\n', "setting clickhouse"),
        ('[kafka]\noptions = ["canary"]\n', "setting kafka.options"),
        ('[kafka]\noptions = "canary"\n', "setting kafka.options"),
    ],
)
def test_a_secret_that_cannot_be_had(nothing_set: Path, toml: str, message: str) -> None:
    """The setting, the file and what to do; never the value, nor that of a whole section."""
    Path("empty").touch()
    Path("pipeline.toml").write_text(toml)
    with pytest.raises(UsageError, match=message) as refused:
        reading.load()
    assert "canary" not in str(refused.value)
    assert "from-a-file" not in str(refused.value)


def test_errors_of_clickhouse_do_not_repeat_passwords(settings: Settings) -> None:
    wrong = settings.model_copy(update={"clickhouse": settings.clickhouse.model_copy(update={"password": SecretStr("pass/word?@:canary")})})
    ended = command(wrong, "timeline", "--portal", "1", "--email", "a@x.io")
    assert ended.returncode == 1
    assert "clickhouse.user is 'writer'" in ended.stderr
    assert "canary" not in ended.stderr
    assert "Traceback" not in ended.stderr
