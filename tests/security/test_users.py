"""Who there is in ClickHouse, and what each may: what the documents say, and nobody and nothing else."""

import re
from collections import defaultdict

import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException

from infra.clickhouse_server import DATABASES, TABLES, VIEWS
from infra.servers import Servers
from pipeline.adapters.clickhouse import MIGRATIONS, connect
from pipeline.settings import Settings
from tests.security.twins import MARKS

pytestmark = pytest.mark.timeout(400)

Grants = set[tuple[str, str | None, str | None]]
"""What, in which database (None: all), on which table (None: all)."""

WRITER: Grants = {
    (right, None, None)
    for right in (
        *("CREATE DATABASE", "DROP DATABASE", "CREATE TABLE", "DROP TABLE", "CREATE VIEW", "DROP VIEW"),
        *("ALTER", "SELECT", "INSERT", "TABLE ENGINE"),
    )
}
ANALYST: Grants = {("SELECT", None, None), ("SHOW", None, None), ("dictGet", None, None)}
NOT_TO_THE_ANALYST: Grants = {("SELECT", "system", None), ("SELECT", "information_schema", None)}
ANALYST_OF_A_PORTAL: Grants = {
    ("SELECT", "timelines", "generation_switches"),
    *(("SELECT", database, name) for database in DATABASES for name in (*TABLES, *VIEWS)),
}
ENGINE: Grants = {("SELECT", None, None), ("dictGet", None, None), ("SYSTEM LISTEN", None, None)}
"""The user `default` is the server's own, and nobody comes in under it."""


@pytest.fixture
def writer(settings: Settings) -> Client:
    return connect(settings)


def test_there_are_the_users_that_are_documented_and_no_others(secured: Servers, writer: Client) -> None:
    """The writer, the analyst and an analyst of each portal, with passwords, from this machine; the engine's own. No roles."""
    analysts = {f"analyst_{portal}" for portal in MARKS}
    assert {login["user"] for login in secured.clickhouse.portal_analysts.values()} == analysts
    users = writer.execute(
        "SELECT name, arrayStringConcat(auth_type), host_ip, host_names, host_names_regexp, host_names_like FROM system.users"
    )
    assert {name for name, *_ in users} == {"writer", "analyst", "default"} | analysts
    for name, how, *hosts in users:
        assert how == ("plaintext_password" if name == "default" else "sha256_password"), name
        assert hosts == [[], ["localhost"], [], []], name
    assert writer.execute("SELECT count() FROM system.roles") == [(0,)]
    with pytest.raises(ServerException):
        Client(secured.clickhouse.host, port=secured.clickhouse.port, user="default").execute("SELECT 1")


def test_each_may_what_is_documented_and_nothing_else(writer: Client) -> None:
    """Nobody passes a right on, and what is taken back from the analyst is what others ask."""
    granted, taken_back = _granted(writer)
    assert granted == {
        "writer": WRITER,
        "analyst": ANALYST,
        "default": ENGINE,
        **{f"analyst_{portal}": ANALYST_OF_A_PORTAL for portal in MARKS},
    }
    assert taken_back == {"analyst": NOT_TO_THE_ANALYST}


def _granted(writer: Client) -> tuple[dict[str, Grants], dict[str, Grants]]:
    """By user: what was granted, and what was taken back of it."""
    found: tuple[defaultdict[str, Grants], defaultdict[str, Grants]] = (defaultdict(set), defaultdict(set))
    columns = "user_name, role_name, access_type, database, table, column, is_partial_revoke, grant_option"
    for user, role, right, database, table, column, is_taken_back, may_pass_on in writer.execute(f"SELECT {columns} FROM system.grants"):
        assert (role, column, may_pass_on) == (None, None, 0)
        found[is_taken_back][user].add((right, database, table))
    return dict(found[0]), dict(found[1])


def test_an_analyst_of_a_portal_has_a_filter_on_every_table_and_nobody_else_has_one(writer: Client) -> None:
    filters = writer.execute("SELECT database, table, select_filter, apply_to_all, apply_to_list, apply_to_except FROM system.row_policies")
    expected: list[tuple[object, ...]] = [
        (database, table, f"portal_id = {portal}", 0, [f"analyst_{portal}"], [])
        for portal in MARKS
        for database in DATABASES
        for table in TABLES
    ]
    assert sorted(filters) == sorted(expected)


def test_analysts_may_only_read(writer: Client) -> None:
    """By their profile, whatever they are granted."""
    of = "SELECT user_name, inherit_profile FROM system.settings_profile_elements WHERE user_name IS NOT NULL"
    profiles = dict(writer.execute(of))
    assert profiles == {
        "writer": "default",
        "analyst": "analyst",
        "default": "engine",
        **{f"analyst_{portal}": "analyst" for portal in MARKS},
    }
    readonly = "SELECT profile_name, value FROM system.settings_profile_elements WHERE setting_name = 'readonly'"
    assert writer.execute(readonly) == [("analyst", "2")]


def test_the_writer_on_a_server_of_your_own_may_as_much(writer: Client) -> None:
    """`users.sql` grants the same, in our databases; so whatever the pipeline does here it may do there."""
    statements = re.findall(r"^GRANT (.*) ON (\S+) TO pipeline;$", (MIGRATIONS.parent / "users.sql").read_text(), re.MULTILINE)
    assert {where for _, where in statements} == {"timelines*.*", "*"}
    assert {(right, None, None) for rights, _ in statements for right in rights.split(", ")} == _granted(writer)[0]["writer"]
