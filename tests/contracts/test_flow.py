"""`pipeline/app.py`, which is read first, says what the contracts say and what the parts do."""

from pipeline import record
from pipeline.adapters.contracts import RAW_TOPICS, load_topics
from pipeline.agents import identify, sessionize
from pipeline.app import PARTS
from pipeline.app import RAW_TOPICS as RAW_TOPICS_OF_THE_FLOW

READS = {part.name: set(part.reads) for part in PARTS}


def test_the_flow_writes_and_reads_what_the_topics_say() -> None:
    """A topic's producers and consumers, `publish` and the edge aside, are the parts that name it; a changelog is read by who writes it."""
    for name, topic in load_topics().items():
        writers = {part.name for part in PARTS if name in part.writes}
        readers = {part.name for part in PARTS if name in part.reads}
        assert set(topic.producers) - {"publish", "edge"} == writers, name
        assert set(topic.consumers) == (writers if name.endswith("-changelog") else readers), name


def test_the_flow_names_every_topic() -> None:
    assert {topic for part in PARTS for topic in (*part.reads, *part.writes)} == set(load_topics())
    assert set(RAW_TOPICS_OF_THE_FLOW) == set(RAW_TOPICS.values())


def test_the_parts_read_what_the_flow_says() -> None:
    assert set(sessionize.SOURCES) == READS["sessionize"]
    assert {*identify.EVIDENCE_SOURCES, identify.EVIDENCE} == READS["identify"]
    assert set(record.TOPICS) == READS["record"]
