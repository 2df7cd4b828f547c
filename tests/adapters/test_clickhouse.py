"""Connections and migrations: what a user can mend is said in their words; migrating twice, or at once, does no harm."""

import socket
import threading
import time
from pathlib import Path

import pytest
from clickhouse_driver.errors import ServerException

from infra import clickhouse_server
from infra.servers import Servers, embedded
from pipeline.adapters import clickhouse
from pipeline.adapters.clickhouse import AwayError, identifier, read_migrations
from pipeline.errors import UserError
from pipeline.settings import Settings


def changed(settings: Settings, **values: object) -> Settings:
    return settings.model_copy(update={"clickhouse": settings.clickhouse.model_copy(update=values)})


def test_nobody_there_is_away_and_names_the_settings(settings: Settings) -> None:
    with pytest.raises(AwayError, match=r"clickhouse\.host and clickhouse\.port are 127\.0\.0\.1:1: no answer there"):
        clickhouse.connect(changed(settings, host="127.0.0.1", port=1))


def test_a_server_that_takes_connections_and_says_nothing_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon: whoever asks for a status should not have to wait as long as for an answer that takes work."""
    monkeypatch.setattr(clickhouse, "_FIRST_WORD_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(AwayError, match="no answer there"):
            clickhouse.connect(changed(Settings(), host="127.0.0.1", port=silent.getsockname()[1]))
        assert time.monotonic() - began < 30


def test_a_question_may_take_longer_than_the_first_word(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the server says nothing meanwhile."""
    monkeypatch.setattr(clickhouse, "_FIRST_WORD_S", 1.0)
    clickhouse.migrate(settings)
    silent = {"interactive_delay": 60_000_000}
    assert clickhouse.connect(settings).execute("SELECT sleep(2)", settings=silent) == [(0,)]


def test_the_port_of_http_is_not_the_native_protocols(settings: Settings, servers: Servers) -> None:
    with pytest.raises(UserError, match=rf"{servers.clickhouse.http_port}: what answers there does not speak .* 8123 is HTTP's") as caught:
        clickhouse.connect(changed(settings, port=servers.clickhouse.http_port))
    assert not isinstance(caught.value, AwayError)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"host": "http://127.0.0.1"}, r"clickhouse\.host is 'http://127\.0\.0\.1'.*without http://"),
        ({"options": {"connect_timeout": "soon"}}, r"clickhouse\.options name connect_timeout.*'soon'"),
    ],
)
def test_what_makes_no_address_names_the_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        clickhouse.connect(changed(Settings(), **values))


def test_a_wrong_user_is_not_away(settings: Settings) -> None:
    with pytest.raises(UserError, match=r"clickhouse\.user is 'nobody'") as caught:
        clickhouse.connect(changed(settings, user="nobody"))
    assert not isinstance(caught.value, AwayError)
    assert settings.clickhouse.password.get_secret_value() not in str(caught.value)


def test_a_missing_database_says_how_to_make_it(settings: Settings) -> None:
    with pytest.raises(UserError, match="python -m pipeline migrate"):
        clickhouse.connect(settings)


def test_migrating_again_applies_nothing(settings: Settings) -> None:
    assert clickhouse.migrate(settings) == [migration.name for migration in read_migrations()]
    assert clickhouse.migrate(settings) == []


def test_what_migrations_make_is_known_by_name(settings: Settings) -> None:
    clickhouse.migrate(settings)
    there = clickhouse.connect(settings).execute("SELECT name FROM system.tables WHERE database = currentDatabase()")
    assert {name for (name,) in there} == clickhouse.names_made()


def test_several_processes_may_migrate_at_once(settings: Settings) -> None:
    failures: list[BaseException] = []

    def migrate() -> None:
        try:
            clickhouse.migrate(settings)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            failures.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    applied = clickhouse.connect(settings).execute("SELECT count() FROM schema_migrations FINAL")
    assert applied == [(len(read_migrations()),)]


def test_a_migration_that_was_changed_after_it_was_applied_is_refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "0001_first.sql"
    file.write_text("CREATE TABLE IF NOT EXISTS one (a UInt8) ENGINE = Memory;\n")
    monkeypatch.setattr(clickhouse, "MIGRATIONS", tmp_path)
    clickhouse.migrate(settings)
    file.write_text("CREATE TABLE IF NOT EXISTS two (a UInt8) ENGINE = Memory;\n")
    with pytest.raises(UserError, match=r"0001_first.sql was changed after it was applied"):
        clickhouse.migrate(settings)


def test_a_database_that_is_ahead_of_the_program_is_refused(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clickhouse.migrate(settings)
    monkeypatch.setattr(clickhouse, "MIGRATIONS", tmp_path)
    with pytest.raises(UserError, match="this program does not know"):
        clickhouse.migrate(settings)


def test_migrations_are_numbered_without_a_gap(tmp_path: Path) -> None:
    (tmp_path / "0001_first.sql").touch()
    (tmp_path / "0003_third.sql").touch()
    with pytest.raises(UserError, match="without a gap"):
        read_migrations(tmp_path)


def test_a_statement_ends_at_a_line_that_ends_with_a_semicolon(tmp_path: Path) -> None:
    (tmp_path / "0001_first.sql").write_text("-- why;\nSELECT ';',\n  1;\n\nSELECT 2;\n-- end\n")
    assert read_migrations(tmp_path)[0].statements == ("SELECT ';',\n  1", "SELECT 2")


@pytest.mark.parametrize(("name", "quoted"), [("timelines", "`timelines`"), ("a`b", "`a\\`b`"), ("a\\", "`a\\\\`")])
def test_a_database_name_cannot_leave_its_quotes(name: str, quoted: str) -> None:
    assert identifier(name) == quoted


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (ServerException("too many parts", 252), True),
        (ServerException("memory", 241), True),
        (ServerException("a table is read-only", 774), True),
        (ServerException("our user may only read", 164), True),
        (ServerException("type mismatch", 53), False),
        (EOFError(), True),
        (ConnectionResetError(), True),
        (ValueError(), False),
    ],
)
def test_what_passes_by_itself_is_away_and_a_bug_is_not(error: Exception, away: bool) -> None:
    assert clickhouse.is_away(error) == away


def test_the_analyst_reads_the_views_and_writes_nothing(settings: Settings) -> None:
    clickhouse.migrate(settings)
    analyst = clickhouse.connect(changed(settings, user=settings.clickhouse.analyst_user, password=settings.clickhouse.analyst_password))
    assert analyst.execute("SELECT count() FROM timeline") == [(0,)]
    with pytest.raises(ServerException, match=r"privileges|readonly"):
        analyst.execute("CREATE TABLE mine (a UInt8) ENGINE = Memory")


def test_a_server_that_lets_nobody_write_for_a_while_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by who has to connect anew: there, it already refuses our settings."""
    limited = clickhouse_server.USERS.replace("<profile>default</profile>", "<profile>limited</profile>")
    monkeypatch.setattr(clickhouse_server, "USERS", limited.replace("<engine>", "<limited><readonly>1</readonly></limited><engine>", 1))
    with embedded(tmp_path / "servers") as running:
        at = running.clickhouse
        settings = Settings.model_validate({"clickhouse": {"host": at.host, "port": at.port, "user": at.user, "password": at.password}})
        with pytest.raises(AwayError, match=r"readonly mode.*Grant that user the right"):
            clickhouse.server(settings)
