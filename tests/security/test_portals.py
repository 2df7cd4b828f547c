"""Portals never mix, and who may read one portal reads no other."""

import json
from collections.abc import Iterator

import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException

from infra.clickhouse_server import TABLES, VIEWS
from infra.servers import Servers
from pipeline.adapters.clickhouse import connect
from pipeline.core.policy import Policy
from pipeline.resolve import Resolution, resolve_lines
from pipeline.settings import Settings
from tests.end_to_end.reading import resolution_in_clickhouse
from tests.end_to_end.running import command
from tests.security.conftest import Run
from tests.security.secured import as_analyst
from tests.security.twins import CANARY_ADDRESS, MARKS

pytestmark = pytest.mark.timeout(400)

NOT_ALLOWED = 497


@pytest.fixture
def first(secured: Servers, settings: Settings, run: Run) -> Client:
    """The analyst of portal 1."""
    return connect(as_analyst(settings, secured, portal=1))


def alone(run: Run, portal: int) -> Resolution:
    """What the portal's events mean when there are no others."""
    return resolve_lines(enumerate(run.lines[portal], 1), Policy())


@pytest.mark.parametrize("portal", MARKS)
def test_a_portal_is_what_it_would_be_alone(secured: Servers, settings: Settings, run: Run, portal: int) -> None:
    """Live, seen by the portal's analyst: contacts, links, sessions, owners and conflicts, with another portal of equal ids beside it."""
    shown, expected = resolution_in_clickhouse(as_analyst(settings, secured, portal=portal)), alone(run, portal)
    assert shown.contacts == expected.contacts
    assert shown.links == expected.links
    assert shown.sessions == expected.sessions
    assert shown.events == expected.events
    assert sorted(row.detail for row in shown.rejected) == sorted(row.detail for row in expected.rejected)
    assert len(shown.links) > 50


def test_resolve_keeps_portals_apart(run: Run) -> None:
    together = resolve_lines(enumerate([*run.lines[1], *run.lines[2]], 1), Policy())
    for portal in MARKS:
        expected = alone(run, portal)
        assert [row for row in together.contacts if row.portal_id == portal] == expected.contacts
        assert [row for row in together.links if row.portal_id == portal] == expected.links
        assert [row for row in together.sessions if row.portal_id == portal] == expected.sessions
        assert [row for row in together.events if row.portal_id == portal] == expected.events


def test_commands_keep_portals_apart(settings: Settings, run: Run) -> None:
    """`timeline` and `explain` show one portal; `explain` does not guess which."""
    timeline = command(settings, "timeline", "--portal", "1", "--email", CANARY_ADDRESS, "--json")
    assert MARKS[1] in timeline.stdout
    assert MARKS[2] not in timeline.stdout
    cookie = json.loads(timeline.stdout.splitlines()[0])["utk"]
    unclear = command(settings, "explain", "--utk", cookie)
    assert unclear.returncode == 1
    assert f"portals 1, 2 have the cookie {cookie}: name one with --portal" in unclear.stderr
    explained = json.loads(command(settings, "explain", "--utk", cookie, "--portal", "2", "--json").stdout)
    contacts = {row.contact_id for row in alone(run, 2).contacts}
    assert {step["contact_id"] for step in explained["now"]["chain"]} - {None} <= contacts


def test_the_lists_of_tables_are_complete(settings: Settings) -> None:
    """Every table of the migrations whose rows have a portal is filtered, and every view is readable; a new one has to be thought of."""
    client = connect(settings)
    having_portals = "SELECT table FROM system.columns WHERE database = currentDatabase() AND name = 'portal_id'"
    rows = client.execute(
        f"SELECT name, engine FROM system.tables WHERE database = currentDatabase() AND (name IN ({having_portals}) OR engine = 'View')"
    )
    stored = {name for name, engine in rows if "MergeTree" in engine}
    assert stored == set(TABLES)
    assert {name for name, engine in rows if engine == "View"} == set(VIEWS)


def test_an_analyst_of_a_portal_reads_its_rows(first: Client) -> None:
    """In every table and view there is something, and all of it is the portal's."""
    for name in (*TABLES, *VIEWS):
        source = f"{name}(portal = 0, contact = '', cookie = '')" if name.endswith("_of") else name
        rows = first.execute(f"SELECT * FROM {source}", with_column_types=True)
        portal = [column for column, _ in rows[1]].index("portal_id")
        assert {row[portal] for row in rows[0]} == {1}, name
        assert MARKS[2] not in str(rows[0]), name


@pytest.mark.parametrize("name", [name for name in VIEWS if name.endswith("_of")])
def test_asking_for_another_portal_gives_nothing(first: Client, name: str) -> None:
    assert first.execute(f"SELECT count() FROM {name}(portal = 1, contact = '', cookie = '')")[0][0] > 0
    assert first.execute(f"SELECT count() FROM {name}(portal = 2, contact = '', cookie = '')") == [(0,)]


def attempts(settings: Settings) -> Iterator[str]:
    """Ways around: every other table, whatever the server says about itself, and functions that read tables."""
    writer = connect(settings)
    others = writer.execute(
        "SELECT database, name FROM system.tables WHERE database IN ('system', 'information_schema', 'default', 'timelines')"
    )
    for database, name in others:
        if (database, name) not in {("timelines", known) for known in (*TABLES, *VIEWS)} and not name.startswith(("numbers", "zeros")):
            yield f"SELECT * FROM {database}.`{name}` LIMIT 5000"
    yield "SELECT * FROM merge('timelines', '.*')"
    yield "SELECT * FROM remote('127.0.0.1', 'timelines', 'event_rows')"
    yield "SELECT * FROM mergeTreeIndex('timelines', 'event_rows')"
    yield "SELECT * FROM view(SELECT * FROM event_rows)"
    yield "SELECT groupArray(title) FROM event_rows PREWHERE portal_id = 2"
    yield "SHOW PROCESSLIST"
    yield "SHOW CREATE TABLE event_rows"
    yield "EXPLAIN indexes = 1 SELECT * FROM event_rows WHERE portal_id = 2"


def test_a_further_generation_is_filtered_as_well(settings: Settings, first: Client) -> None:
    writer = connect(settings)
    writer.execute("CREATE DATABASE IF NOT EXISTS timelines_g2")
    writer.execute("CREATE TABLE IF NOT EXISTS timelines_g2.event_rows AS timelines.event_rows")
    writer.execute("INSERT INTO timelines_g2.event_rows SELECT * FROM timelines.event_rows")
    assert writer.execute("SELECT uniqExact(portal_id) FROM timelines_g2.event_rows") == [(2,)]
    assert first.execute("SELECT DISTINCT portal_id FROM timelines_g2.event_rows") == [(1,)]


@pytest.mark.parametrize("oracle", ["throwIf(portal_id = 2)", "1 / (portal_id - 1)", "toUInt8(title)"])
def test_conditions_never_see_the_rows_of_others(first: Client, oracle: str) -> None:
    """An expression that fails, or tells, on another portal's row is only asked about one's own."""
    assert first.execute(f"SELECT count() FROM event_rows WHERE portal_id = 2 AND NOT ignore({oracle})") == [(0,)]
    assert first.execute("SELECT count() > 0 FROM event_rows WHERE throwIf(portal_id = 2) = 0") == [(1,)]


def test_there_is_no_way_around(settings: Settings, first: Client) -> None:
    """Whatever is asked: refused, or without anything of the other portal, and without anybody's queries."""
    asked, refused = 0, 0
    for query in attempts(settings):
        asked += 1
        try:
            said = str(first.execute(query))
        except ServerException as error:
            refused += 1
            said = str(error).split("Stack trace")[0].replace(query, "")
        assert MARKS[2] not in said, query
        assert "canary-person" not in said or "event_rows" in query or "merge" in query, query
    assert asked > 100
    assert refused > 50


@pytest.mark.parametrize("table", ["processes", "users", "grants", "row_policies", "parts", "parts_columns"])
def test_the_analyst_of_all_portals_sees_nobodys_queries(secured: Servers, settings: Settings, table: str) -> None:
    analyst = connect(as_analyst(settings, secured))
    assert analyst.execute("SELECT uniqExact(portal_id) FROM timelines.events") == [(2,)]
    with pytest.raises(ServerException) as refused:
        analyst.execute(f"SELECT * FROM system.{table}")
    assert refused.value.code == NOT_ALLOWED


@pytest.mark.parametrize(
    "query", ["INSERT INTO link_rows (portal_id) VALUES", "ALTER TABLE link_rows DELETE WHERE 1", "SET readonly = 0", "DROP VIEW links"]
)
def test_an_analyst_of_a_portal_changes_nothing(first: Client, query: str) -> None:
    with pytest.raises(ServerException):
        first.execute(query, [(1,)] if query.endswith("VALUES") else None)


@pytest.mark.parametrize("file", ["users.sql", "portal_analyst.sql"])
def test_statements_for_a_server_of_your_own(settings: Settings, file: str) -> None:
    """The server understands them; they name what the embedded server's users may read."""
    from pipeline.adapters.clickhouse import MIGRATIONS

    text = (MIGRATIONS.parent / file).read_text()
    statements = [
        statement
        for statement in "\n".join(line for line in text.splitlines() if not line.startswith("--")).split(";")
        if statement.strip()
    ]
    client = connect(settings)
    for statement in statements:
        assert client.execute(f"EXPLAIN AST {statement}")
    if file == "portal_analyst.sql":
        assert all(f"ON timelines.{name} USING portal_id = 11" in text for name in TABLES)
        assert all(f"GRANT SELECT ON timelines.{name} TO analyst_11" in text for name in (*TABLES, *VIEWS))
