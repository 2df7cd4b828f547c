"""Readers see one generation, whichever is live, wholly; one that is dropped leaves nothing behind."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from clickhouse_driver import Client
from confluent_kafka import TopicPartition

from pipeline.adapters import clickhouse, kafka
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.app import ROLES
from pipeline.core.events import Event
from pipeline.core.policy import Policy, parse_policy
from pipeline.errors import UserError
from pipeline.policy_file import load_policy
from pipeline.replay import lifecycle, registry, views
from pipeline.replay.registry import About, Generation, State
from pipeline.settings import Settings
from tests.adapters.test_views import VIEWS
from tests.builders import START, form_submission, page_view, utk
from tests.cli.conftest import Run
from tests.replay.conftest import built, in_kafka, pointed
from tests.waiting import until

ONE: tuple[Event, ...] = (page_view(1), form_submission(2, at=START + 1, email="one@x.io"))
TWO: tuple[Event, ...] = (*ONE[:1], form_submission(3, at=START + 1, email="two@x.io"), page_view(4, utk="b"))

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def two(settings: Settings) -> Settings:
    """Two generations that say different things; readers see the first."""
    built(settings, 1, *ONE)
    built(settings, 2, *TWO)
    return settings


@pytest.fixture
def both(two: Settings) -> Settings:
    """The same, with topics."""
    in_kafka(two)
    return two


def seen(settings: Settings, user: str | None = None) -> dict[str, list[object]]:
    """All that a reader sees."""
    client = clickhouse.connect(settings)
    cookie = utk("a")
    queries = {view: f"SELECT * FROM {view} ORDER BY ALL" for view in VIEWS}
    queries["timeline_of"] = f"SELECT * FROM timeline_of(portal = 1, contact = '', cookie = '{cookie}') ORDER BY ALL"
    queries["owned_events_of"] = "SELECT * FROM owned_events_of(portal = 1, contact = '', cookie = '') ORDER BY ALL"
    return {name: client.execute(query) for name, query in queries.items()}


def databases(settings: Settings) -> list[str]:
    rows = clickhouse.server(settings).execute(
        "SELECT name FROM system.databases WHERE startsWith(name, %(name)s) ORDER BY name", {"name": settings.clickhouse.database}
    )
    return [name.removeprefix(settings.clickhouse.database) for (name,) in rows]


def test_a_switch_changes_all_views_and_back(both: Settings) -> None:
    first, second = seen(both), seen(both.of_generation(2))
    assert first != second
    assert lifecycle.switch(both, 2, 30) == 2
    assert seen(both) == second
    assert lifecycle.switch(both, None, 30) == 1
    assert seen(both) == first
    assert seen(both.of_generation(2)) == second, "the generations themselves are as they were"


def test_views_are_the_same_from_any_database(both: Settings) -> None:
    """A reader need not have ours as the current one, neither before the first switch nor after it."""

    def from_elsewhere() -> list[object]:
        queries = [*VIEWS, f"timeline_of(portal = 1, contact = '', cookie = '{utk('a')}')"]
        return [clickhouse.server(both).execute(f"SELECT count() FROM {clickhouse.identifier(both.database)}.{view}") for view in queries]

    views.migrate(both)
    first = from_elsewhere()
    assert views.migrate(both) == []
    lifecycle.switch(both, 2, 30)
    lifecycle.switch(both, 1, 30)
    assert from_elsewhere() == first


def test_views_keep_their_columns_and_comments(two: Settings) -> None:
    def described(client: Client) -> list[object]:
        comments = "SELECT name, comment FROM system.tables WHERE database = currentDatabase() AND engine = 'View' ORDER BY name"
        return [client.execute(f"DESCRIBE TABLE {view}") for view in VIEWS] + [client.execute(comments)]

    client = clickhouse.connect(two)
    before = described(client)
    pointed(two, 2)
    assert described(client) == before


def test_the_analyst_sees_the_live_generation(two: Settings) -> None:
    """From whatever database the session is in."""
    pointed(two, 2)
    update = {"user": two.clickhouse.analyst_user, "password": two.clickhouse.analyst_password}
    analyst = clickhouse.server(two.model_copy(update={"clickhouse": two.clickhouse.model_copy(update=update)}))
    assert analyst.execute(f"SELECT email FROM {two.clickhouse.database}.contacts") == [("two@x.io",)]
    assert analyst.execute(f"SELECT count() FROM {two.clickhouse.database}.timeline") == [(3,)]


def test_a_query_sees_one_generation_from_beginning_to_end(two: Settings) -> None:
    """While readers are switched to and fro: contacts, timelines and links of one query always belong together, and none fails."""
    pointed(two, 1)
    seen_pairs: set[tuple[object, ...]] = set()
    failures: list[BaseException] = []
    ended = threading.Event()

    def read() -> None:
        client = clickhouse.connect(two)
        query = (
            "SELECT (SELECT any(email) FROM contacts), (SELECT count() FROM event_owners), (SELECT any(toString(evidence)) FROM links), "
            "(SELECT groupUniqArray(email) FROM timeline WHERE email IS NOT NULL)"
        )
        try:
            while not ended.is_set():
                seen_pairs.add(tuple(map(str, client.execute(query)[0])))
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn, number in enumerate([2, 1] * 8):
        time.sleep(0.2)
        if turn % 8 == 0:
            views.install(two)
        registry.switch(two, number)
    ended.set()
    for reader in readers:
        reader.join()
    assert failures == []
    expected = {("one@x.io", "2", ONE[1].event_id, "['one@x.io']"), ("two@x.io", "3", TWO[1].event_id, "['two@x.io']")}
    assert seen_pairs == expected


def test_a_cookies_timeline_reads_a_few_granules_of_one_generation(two: Settings) -> None:
    for number in (1, 2):
        clickhouse.connect(two.of_generation(number)).execute(
            "INSERT INTO event_arrivals (portal_id, utk, event_id, type, occurred_at, url) "
            "SELECT 1, lower(hex(MD5(toString(number % 20000)))), toString(generateUUIDv4()), 'page_view', "
            "1700000000000 + number, 'https://x.io/' FROM numbers(100000)"
        )
    pointed(two, 2)
    client = clickhouse.connect(two)
    assert client.execute(f"SELECT count() FROM timeline_of(portal = 1, contact = '', cookie = '{utk('b')}')") == [(1,)]
    assert client.last_query.progress.rows < 20_000
    client.execute("SELECT count(), sum(length(url)) FROM events")
    assert client.last_query.progress.rows < 110_000, "of the other generation nothing is read"


def test_a_migration_reaches_the_views_of_all_generations(two: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version replaces a view: the new definition becomes each generation's own, and readers still see the live one."""
    pointed(two, 2)
    newer = tmp_path / "migrations"
    shutil.copytree(clickhouse.MIGRATIONS, newer)
    number = len(clickhouse.read_migrations()) + 1
    (newer / f"{number:04}_next.sql").write_text(
        "CREATE OR REPLACE VIEW contacts (`email` Nullable(String) COMMENT 'Address', `portals` UInt64 COMMENT 'How many') "
        "AS SELECT email, toUInt64(1) AS portals FROM contact_rows FINAL;\n"
    )
    monkeypatch.setattr(clickhouse, "MIGRATIONS", newer)
    assert views.migrate(two) == [f"{number:04}_next.sql"]
    assert clickhouse.connect(two).execute("SELECT * FROM contacts") == [("two@x.io", 1)]
    assert views.migrate(two.of_generation(2)) == []
    pointed(two, 1)
    assert clickhouse.connect(two).execute("SELECT * FROM contacts") == [("one@x.io", 1)]


def test_commands_follow_the_live_generation(both: Settings, run: Run) -> None:
    environment = both.environment()
    contact = "timeline", "--portal", "1", "--email", "two@x.io"
    assert run(*contact, **environment).code == 1
    assert run("replay", "switch", **environment).out == "readers see generation 2\n"
    assert run(*contact, **environment).code == 0
    assert "is two@x.io (" in run("explain", "--event", TWO[0].event_id, **environment).out
    shown = json.loads(run("status", "--json", **environment).out)
    assert shown["generation"] == 2


def test_explain_tells_by_the_policy_of_the_live_generation(settings: Settings, run: Run) -> None:
    """Not by that of the settings; `--set` is laid over it."""
    events = (page_view(1), form_submission(2, at=START + 1, email="one@x.io"), form_submission(3, at=START + 2, email="two@x.io"))
    known = form_submission(4, at=START - 1, utk="b", email="two@x.io")
    built(settings, 1, *events, known)
    built(settings, 2, *events, known, policy=parse_policy("", ["identity.rebind=move_all"]))

    def owner(*arguments: str) -> str:
        return run("explain", "--event", events[0].event_id, *arguments, **settings.environment()).out.partition(" is ")[2].split()[0]

    assert owner() == "one@x.io"
    pointed(settings, 2)
    assert owner() == "two@x.io"
    both_ways = run("explain", "--event", events[0].event_id, "--set", "identity.rebind=from_now", **settings.environment()).out
    assert [line.partition(" is ")[2].split()[0] for line in both_ways.splitlines() if "page_view" in line] == ["two@x.io", "one@x.io"]
    same = run("explain", "--event", events[0].event_id, "--set", "identity.replaced_email=keep", **settings.environment()).out
    assert same.endswith("With identity.replaced_email=keep:\n  the same\n")
    pointed(settings, 1)
    assert owner() == "one@x.io"


def test_what_cannot_be_switched_to(both: Settings) -> None:
    with pytest.raises(UserError, match="readers see generation 1 already"):
        lifecycle.switch(both, 1, 0)
    with pytest.raises(UserError, match=r"generation 3 does not exist; there are: 1, 2"):
        lifecycle.switch(both, 3, 0)
    registry.write(both, Generation(3, State.BUILDING))
    with pytest.raises(UserError, match="generation 3 is building"):
        lifecycle.switch(both, 3, 0)
    producer = kafka.producer(both)
    producer.produce(kafka.topic_name(both, "page-views"), b"x", b"y")
    assert producer.flush(30) == 0
    with pytest.raises(UserError, match=r"generation 2 has not caught up after 0 s: .*records behind.*Readers still see generation 1"):
        lifecycle.switch(both, 2, 0)


def test_what_cannot_be_dropped(two: Settings) -> None:
    with pytest.raises(UserError, match="readers see generation 1: switch to another one first"):
        lifecycle.drop(two, 1)
    registry.write(two, Generation(3, State.BUILDING, about=About(builder=registry.this_process())))
    with pytest.raises(UserError, match="generation 3 is being built by process"):
        lifecycle.drop(two, 3)
    with pytest.raises(UserError, match="generation 7 does not exist"):
        lifecycle.drop(two, 7)


@pytest.mark.parametrize("doomed", [1, 2])
def test_a_dropped_generation_leaves_nothing_behind(both: Settings, doomed: int) -> None:
    """Neither topics, nor groups, nor tables; what readers see and what is common to all stays."""
    lives = 3 - doomed
    for number in (1, 2):
        _commit(both.of_generation(number))
    lifecycle.switch(both, 2, 30)
    if lives == 1:
        lifecycle.switch(both, 1, 30)
    before = seen(both)
    lifecycle.drop(both, doomed)
    assert seen(both) == before
    common = {*RAW_TOPICS.values(), "dead-letters"}
    names = {topic for topic in kafka.reach(both).topics if topic.startswith(both.kafka.topic_prefix)}
    gone = {kafka.topic_name(both.of_generation(doomed), topic) for topic in ("sessions", "event-copies", "sessionize-visitors-changelog")}
    assert {kafka.topic_name(both, topic) for topic in common} < names
    assert not names & gone
    assert _groups(both) == {kafka.group_name(both.of_generation(lives), part) for part in ROLES}
    assert databases(both) == (["", "_g1"] if lives == 1 else ["", "_g2"])
    if doomed == 1:
        tables = clickhouse.connect(both).execute(
            "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine != 'View' ORDER BY name"
        )
        assert tables == [("generation_switches",), ("generations",)]
    with pytest.raises(UserError, match=f"generation {doomed} was dropped; there are: {lives}"):
        lifecycle.drop(both, doomed)
    with pytest.raises(UserError, match=f"generation {doomed} was dropped"):
        views.migrate(both.of_generation(doomed))


def test_what_others_keep_in_the_readers_database_is_left_alone(both: Settings) -> None:
    """An analyst's tables and views: neither switches nor the end of the first generation change them."""
    client = clickhouse.connect(both)
    client.execute("CREATE TABLE notes (email String, note String) ENGINE = MergeTree ORDER BY email")
    client.execute("INSERT INTO notes VALUES", [("two@x.io", "call back")])
    view = f"SELECT note FROM notes WHERE email IN (SELECT email FROM {clickhouse.identifier(both.database)}.contacts)"
    client.execute(f"CREATE VIEW calls AS {view}")
    theirs = (
        "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase() AND name IN ('notes', 'calls') ORDER BY name"
    )
    before = client.execute(theirs)
    assert len(before) == 2
    lifecycle.switch(both, 2, 30)
    lifecycle.drop(both, 1)
    assert client.execute(theirs) == before
    assert client.execute("SELECT * FROM calls") == [("call back",)]


def test_views_of_others_are_never_made_to_follow_the_pointer(both: Settings) -> None:
    """Not even while the first generation is the only one."""
    client = clickhouse.connect(both)
    client.execute("CREATE VIEW mine AS SELECT 1 AS one")
    pointed(both, 1)
    lifecycle.drop(both, 2)
    views.install(both)
    assert "generation_switches" not in client.execute("SHOW CREATE VIEW mine")[0][0]
    assert databases(both) == ["", "_g1"]
    assert client.execute(f"EXISTS VIEW {clickhouse.identifier(views.database_of(both, 1))}.mine") == [(0,)]


def test_a_drop_waits_for_the_parts_of_the_generation(both: Settings, tmp_path: Path) -> None:
    """It says which still run, if they do for too long, and leaves topics and tables to them; once they end, it goes on."""
    group = kafka.group_name(both.of_generation(2), "record")
    worker = [sys.executable, "-m", "pipeline", "worker", "record", "--generation", "2"]
    with (tmp_path / "worker.log").open("wb") as log, subprocess.Popen(worker, env=os.environ | both.environment(), stderr=log) as process:
        try:
            until(lambda: group in _groups(both), "the worker has joined its group")
            with pytest.raises(UserError, match=rf"parts of generation 2 still run: {group}\. Stop them .* and drop it again"):
                lifecycle.drop(both, 2, wait_s=1)
            assert registry.read(both).of(2).state is State.DROPPING
            assert databases(both) == ["", "_g2"]
            assert kafka.topic_name(both.of_generation(2), "sessions") in kafka.reach(both).topics
            assert process.poll() is None
            soon = threading.Timer(2, process.terminate)
            soon.start()
            lifecycle.drop(both, 2)
            soon.join()
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert databases(both) == [""]
    assert kafka.topic_name(both.of_generation(2), "sessions") not in kafka.reach(both).topics


def test_a_drop_that_was_interrupted_is_finished_by_another(both: Settings) -> None:
    doomed = registry.read(both).of(2)
    registry.write(both, Generation(2, State.DROPPING, doomed.policy, doomed.about, doomed.version))
    lifecycle.drop(both, 2)
    assert databases(both) == [""]
    assert registry.read(both).existing == registry.FIRST.known


def test_a_worker_knows_its_policy_while_clickhouse_is_away(two: Settings) -> None:
    """What this machine saw last; one that has never looked says that ClickHouse is away."""
    away = two.model_copy(update={"clickhouse": two.clickhouse.model_copy(update={"port": 1})})
    with pytest.raises(clickhouse.AwayError):
        registry.read(away)
    seen_before = registry.read(two)
    assert registry.read(away) == seen_before
    settings = registry.worker_settings(away, 2)
    assert settings.policy_file is not None
    assert load_policy(settings.policy_file) == Policy()


def test_nothing_is_known_where_nothing_was_rebuilt(settings: Settings) -> None:
    assert registry.read(settings) == registry.FIRST
    assert registry.live(settings) == settings
    assert not settings.data_dir.exists()


def _commit(settings: Settings) -> None:
    """As if the parts had read a little."""
    for part in ROLES:
        consumer = kafka.consumer(settings, part)
        consumer.commit(offsets=[TopicPartition(kafka.topic_name(settings, "page-views"), 0, 0)], asynchronous=False)
        consumer.close()


def _groups(settings: Settings) -> set[str]:
    client = kafka.admin(settings)
    listed = client.list_consumer_groups(request_timeout=30).result()
    return {group.group_id for group in listed.valid if group.group_id.startswith(settings.kafka.topic_prefix)}
