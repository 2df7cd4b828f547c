"""A generation has names of its own for all that it makes, and shares what was published."""

from pipeline.adapters import kafka
from pipeline.adapters.contracts import RAW_TOPICS, load_topics
from pipeline.adapters.faust_app import faust_app
from pipeline.settings import ClickHouse, Kafka, Settings

FIRST = Settings(kafka=Kafka(topic_prefix="t-"), clickhouse=ClickHouse(database="timelines"))
SECOND = FIRST.of_generation(2)
PARTS = ("sessionize", "identify", "record")


def test_the_first_generation_has_the_plain_names() -> None:
    """An installation that was never rebuilt knows nothing of generations."""
    assert {kafka.topic_name(FIRST, name) for name in load_topics()} == {f"t-{name}" for name in load_topics()}
    assert [kafka.group_name(FIRST, part) for part in PARTS] == [f"t-{part}" for part in PARTS]
    assert FIRST.database == "timelines"


def test_what_was_published_is_common_and_all_else_is_not() -> None:
    common = {name for name in load_topics() if kafka.topic_name(SECOND, name) == kafka.topic_name(FIRST, name)}
    assert common == {*RAW_TOPICS.values(), "dead-letters"}
    assert kafka.topic_name(SECOND, "sessions") == "t-sessions.g2"
    assert kafka.group_name(SECOND, "record") == "t-record.g2"
    assert SECOND.database == "timelines_g2"


def test_names_on_the_broker_lead_back_to_the_contracts() -> None:
    for settings in (FIRST, SECOND):
        assert [kafka.logical_name(settings, kafka.topic_name(settings, name)) for name in load_topics()] == list(load_topics())


def test_a_worker_is_in_the_group_of_its_generation() -> None:
    app = faust_app(SECOND, "sessionize")
    assert app.conf.id == "t-sessionize.g2"
    assert app.logical_name("t-event-copies.g2") == "event-copies"
    assert app.logical_name("t-page-views") == "page-views"


def test_the_settings_of_a_generation_reach_a_child_process() -> None:
    assert SECOND.environment()["PIPELINE_GENERATION"] == "2"
    assert SECOND.of_generation(1) == FIRST
