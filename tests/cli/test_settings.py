"""Where settings come from, which source wins, and what is said when one is wrong."""

import json
import os
from pathlib import Path

import pytest
from clickhouse_driver.util.helpers import parse_url
from pydantic import SecretStr

from pipeline import settings
from pipeline.effective import effective
from pipeline.errors import UsageError
from pipeline.settings import ClickHouse, Kafka, Settings

pytestmark = pytest.mark.usefixtures("no_settings")


def embedded_servers(directory: Path = Path(".data"), pid: int = os.getpid()) -> None:
    directory.mkdir()
    servers = {
        "pids": {"kafka": pid, "clickhouse": pid},
        "kafka": {"bootstrap_servers": "127.0.0.1:19092"},
        "clickhouse": {
            "host": "127.0.0.1",
            "port": 19000,
            "http_port": 18123,
            "user": "pipeline",
            "password": "p",
            "analyst_password": "a",
        },
    }
    (directory / "servers.json").write_text(json.dumps(servers))


def test_defaults() -> None:
    """Without any source there is a default for everything."""
    loaded = settings.load()
    assert loaded.kafka.bootstrap_servers == "127.0.0.1:9092"
    assert loaded.clickhouse.port == 9000
    assert loaded.clickhouse.database == "timelines"
    assert loaded.sessions.retention == 7 * 24 * 3600 * 1000
    assert loaded.data_dir == Path(".data")


def test_environment_wins_over_file_over_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first source that names a setting wins; the others still give what it does not name."""
    embedded_servers()
    Path("pipeline.toml").write_text("[clickhouse]\ndatabase = 'file'\nuser = 'file'\n")
    monkeypatch.setenv("PIPELINE_CLICKHOUSE__DATABASE", "environment")
    loaded = settings.load()
    assert loaded.clickhouse.database == "environment"
    assert loaded.clickhouse.user == "file"
    assert loaded.clickhouse.port == 19000
    assert loaded.kafka.bootstrap_servers == "127.0.0.1:19092"


@pytest.mark.parametrize("setting", ["HOST", "PORT"])
def test_embedded_servers_never_mix_with_an_address_of_your_own(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    """Whoever gives half an address means another server: the embedded one's port and password are not added to it."""
    embedded_servers()
    monkeypatch.setenv(f"PIPELINE_CLICKHOUSE__{setting}", "9440")
    loaded = settings.load()
    assert loaded.clickhouse.port in (9000, 9440)
    assert loaded.clickhouse.password.get_secret_value() == ""
    assert loaded.kafka.bootstrap_servers == "127.0.0.1:19092"


def test_embedded_servers_of_another_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`data_dir`, wherever it comes from, says whose embedded servers are meant."""
    embedded_servers(Path("elsewhere"))
    assert settings.load().clickhouse.port == 9000
    monkeypatch.setenv("PIPELINE_DATA_DIR", "elsewhere")
    assert settings.load().clickhouse.port == 19000


def test_embedded_servers_that_are_gone() -> None:
    """The file of servers that do not run any more is no source."""
    embedded_servers(pid=1 << 22)
    assert settings.load().kafka.bootstrap_servers == "127.0.0.1:9092"
    assert settings.load().clickhouse.port == 9000


@pytest.mark.parametrize("content", ["", "[]", "{", '{"kafka": 7}', '{"clickhouse": null}'])
def test_a_damaged_servers_file_is_no_source(content: str) -> None:
    """A servers.json that was cut off is as good as none."""
    Path(".data").mkdir()
    Path(".data/servers.json").write_text(content)
    assert settings.load().kafka.bootstrap_servers == "127.0.0.1:9092"


def test_file_named_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """PIPELINE_CONFIG names the file; one that does not exist is an error, and not the same as none."""
    Path("my.toml").write_text("[log]\nlevel = 'debug'\n")
    monkeypatch.setenv("PIPELINE_CONFIG", "my.toml")
    assert settings.load().log.level == "debug"
    monkeypatch.setenv("PIPELINE_CONFIG", "missing.toml")
    with pytest.raises(UsageError, match=r"settings file missing.toml \(PIPELINE_CONFIG\) does not exist"):
        settings.load()


def test_file_that_is_no_toml() -> None:
    """A damaged settings file is named, with the place."""
    Path("pipeline.toml").write_text("[kafka\n")
    with pytest.raises(UsageError, match=r"settings file pipeline.toml cannot be read: .*line 1"):
        settings.load()


@pytest.mark.parametrize(
    ("duration", "milliseconds"),
    [("250ms", 250), ("10s", 10_000), ("30m", 1_800_000), ("12h", 43_200_000), ("7d", 604_800_000), ("1500", 1500)],
)
def test_durations(monkeypatch: pytest.MonkeyPatch, duration: str, milliseconds: int) -> None:
    """Durations are written with a unit, and are milliseconds inside."""
    monkeypatch.setenv("PIPELINE_SESSIONS__RETENTION", duration)
    assert settings.load().sessions.retention == milliseconds


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PIPELINE_SESSIONS__RETENTION", "7 weeks", r"sessions.retention = '7 weeks' \(from PIPELINE_SESSIONS__RETENTION\): .*such as 30m"),
        (
            "PIPELINE_CLICKHOUSE__PORT",
            "http",
            r"clickhouse.port = 'http' \(from PIPELINE_CLICKHOUSE__PORT\): input should be a valid integer",
        ),
        ("PIPELINE_CLICKHOUSE__PORT", "70000", r"clickhouse.port = '70000' .*less than or equal to 65535"),
        ("PIPELINE_LOG__LEVEL", "loud", r"log.level = 'loud' .*'debug', 'info', 'warning' or 'error'"),
        ("PIPELINE_CLICKHOUSE__DATABASE", "a; DROP", r"clickhouse.database = 'a; DROP'"),
        ("PIPELINE_KAFKA__OPTIONS", "no json", r"PIPELINE_KAFKA__OPTIONS: expected a JSON object"),
    ],
)
def test_impossible_value(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str) -> None:
    """A value that cannot be is refused with the setting, the value, where it was set, and what is possible."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=message):
        settings.load()


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("PIPELINE_KAFKA__BOOTSTRAP_SERVER", "PIPELINE_KAFKA__BOOTSTRAP_SERVERS"),
        ("PIPELINE_KAFKA_BOOTSTRAP_SERVERS", "PIPELINE_KAFKA__BOOTSTRAP_SERVERS"),
        ("PIPELINE_POLICYFILE", "PIPELINE_POLICY_FILE"),
    ],
)
def test_misspelt_variable(monkeypatch: pytest.MonkeyPatch, variable: str, meant: str) -> None:
    """A misspelt variable is refused, not ignored, and the closest setting is named."""
    monkeypatch.setenv(variable, "x")
    with pytest.raises(UsageError, match=f"unknown setting {variable} in the environment: did you mean {meant}?"):
        settings.load()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            "[kafka]\nbootstrap_server = 'x'\n",
            "unknown setting kafka.bootstrap_server: did you mean kafka.bootstrap_servers.*pipeline.toml",
        ),
        ("[kafak]\nbootstrap_servers = 'x'\n", "unknown setting kafak.*pipeline.toml"),
        ("policy = 'x'\n", "unknown setting policy: did you mean policy_file"),
    ],
)
def test_misspelt_name_in_the_file(toml: str, message: str) -> None:
    """The same in the file."""
    Path("pipeline.toml").write_text(toml)
    with pytest.raises(UsageError, match=message):
        settings.load()


def test_client_options_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Client options have dots in their names, variables cannot: underscores are read as dots; JSON works too."""
    monkeypatch.setenv("PIPELINE_KAFKA__OPTIONS__SECURITY_PROTOCOL", "SASL_SSL")
    assert settings.load().kafka.options == {"security.protocol": "SASL_SSL"}
    monkeypatch.delenv("PIPELINE_KAFKA__OPTIONS__SECURITY_PROTOCOL")
    monkeypatch.setenv("PIPELINE_KAFKA__OPTIONS", '{"sasl.username": "u", "socket.timeout.ms": 1000}')
    assert settings.load().kafka.options == {"sasl.username": "u", "socket.timeout.ms": "1000"}


def test_options_of_the_file_and_of_variables_are_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password in the environment joins the options in the file."""
    Path("pipeline.toml").write_text('[kafka]\noptions = { "sasl.username" = "u" }\n')
    monkeypatch.setenv("PIPELINE_KAFKA__OPTIONS__SASL_PASSWORD", "p")
    assert settings.load().kafka.options == {"sasl.username": "u", "sasl.password": "p"}


def test_an_unknown_option_of_clickhouse_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver would send it along as a setting of queries, and nobody would look at it."""
    monkeypatch.setenv("PIPELINE_CLICKHOUSE__OPTIONS__CA_CERT", "/canary")
    where = r"setting clickhouse\.options \(from PIPELINE_CLICKHOUSE__OPTIONS__CA_CERT\)"
    with pytest.raises(UsageError, match=where + r": unknown option ca_cert: did you mean ca_certs\? Options are alt_hosts, ca") as refused:
        settings.load()
    assert "/canary" not in str(refused.value)
    Path("pipeline.toml").write_text("[clickhouse.options]\nverify = 'false'\n")
    with pytest.raises(UsageError, match=r"\(from PIPELINE_CLICKHOUSE__OPTIONS__CA_CERT or pipeline\.toml\)"):
        settings.load()
    monkeypatch.delenv("PIPELINE_CLICKHOUSE__OPTIONS__CA_CERT")
    assert settings.load().clickhouse.options == {"verify": "false"}


@pytest.mark.parametrize("name", settings.CLICKHOUSE_OPTIONS)
def test_every_option_of_clickhouse_is_one(name: str) -> None:
    """The driver takes it, and does not pass it on as a setting of queries."""
    _, taken = parse_url(f"clickhouse://host/?{name}={'PROTOCOL_TLS_CLIENT' if name == 'ssl_version' else '1'}")
    assert name in taken


def test_a_child_process_sees_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """`environment()` carries every setting, secrets included, whatever the child finds in its directory."""
    parent = Settings(
        kafka=Kafka(bootstrap_servers="k:1", topic_prefix="t-", options={"sasl.password": "s=,\"'"}),
        clickhouse=ClickHouse(host="c", password=SecretStr("hidden"), secure=True),
        policy_file=Path("p.toml"),
    )
    for name, value in parent.environment().items():
        monkeypatch.setenv(name, value)
    embedded_servers()
    Path("pipeline.toml").write_text("[log]\nlevel = 'debug'\n")
    assert settings.load() == parent


def test_every_setting_is_described() -> None:
    """No setting without a description; all names are different."""
    assert all(field.description for _, field in settings.fields())
    assert len(set(settings.names())) == len(settings.names())


def test_effective_settings_name_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting says where it comes from: the variable, the file, the embedded servers, or the default."""
    embedded_servers()
    Path("pipeline.toml").write_text("[log]\nlevel = 'debug'\n")
    monkeypatch.setenv("PIPELINE_CLICKHOUSE__DATABASE", "mine")
    shown = {setting.name: setting for setting in effective(settings.load())}
    assert (shown["clickhouse.database"].value, shown["clickhouse.database"].where) == ("mine", "PIPELINE_CLICKHOUSE__DATABASE")
    assert (shown["log.level"].source, shown["log.level"].where) == ("file", "pipeline.toml")
    assert (shown["clickhouse.port"].value, shown["clickhouse.port"].source) == (19000, "embedded")
    assert (shown["log.format"].value, shown["log.format"].source) == ("text", "default")
    assert list(shown) == settings.names()


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the effective settings, nor the settings' own text, nor a complaint shows a password."""
    monkeypatch.setenv("PIPELINE_CLICKHOUSE__PASSWORD", "hidden-1")
    monkeypatch.setenv("PIPELINE_KAFKA__OPTIONS", '{"sasl.password": "hidden-2", "sasl.username": "shown"}')
    monkeypatch.setenv("PIPELINE_SCHEMA_REGISTRY__PASSWORD", "hidden-3")
    loaded = settings.load()
    shown = " ".join(str(setting.as_dict()) for setting in effective(loaded))
    assert "hidden" not in shown + repr(loaded) + str(loaded)
    assert "shown" in shown
    Path("pipeline.toml").write_text("[clickhouse]\nanalyst_password = 4711\n")
    with pytest.raises(UsageError, match=r"clickhouse.analyst_password = \*\*\*") as refused:
        settings.load()
    assert "4711" not in str(refused.value)


def test_a_password_in_the_registrys_url_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The url is shown, so it must not be in it; nor does the complaint show it."""
    monkeypatch.setenv("PIPELINE_SCHEMA_REGISTRY__URL", "http://somebody:hidden@registry.internal/@")
    with pytest.raises(
        UsageError, match="setting schema_registry: the url holds a user or a password: give them as user and password_file"
    ) as refused:
        settings.load()
    assert "hidden" not in str(refused.value)
    monkeypatch.setenv("PIPELINE_SCHEMA_REGISTRY__URL", "http://registry.internal/@")
    assert settings.load().schema_registry.url == "http://registry.internal/@"
