"""The contracts fit together, and a wrong file is refused with a sentence that says what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.adapters.contracts import (
    RAW_TOPICS,
    SCHEMAS,
    TOPICS,
    ContractError,
    home_topic,
    load_schemas,
    load_topics,
    orphans,
    read_schemas,
    read_topics,
)
from pipeline.core.events import TYPES, WITHOUT_COOKIE

TOPIC: dict[str, Any] = {
    "purpose": "Visits.",
    "key": "utk",
    "schemas": ["visit"],
    "partitions": 6,
    "configs": {"cleanup.policy": "delete", "retention.ms": -1},
    "producers": ["publish"],
    "consumers": ["record"],
}
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "visit",
    "schema_id": 1,
    "fields": [{"name": "utk", "type": "string", "doc": "The visitor."}],
    "examples": [{"utk": "a"}],
}


def topic_file(directory: Path, name: str = "visits", text: str | None = None, **changes: Any) -> Path:
    """A directory with one topic file; a key changed to None is left out."""
    stated = {key: value for key, value in (TOPIC | changes).items() if value is not None}
    (directory / f"{name}.yaml").write_text(yaml.safe_dump(stated) if text is None else text)
    return directory


def schema_file(directory: Path, name: str = "visit.v1", text: str | None = None, **changes: Any) -> Path:
    """The directory with one schema file more; a key changed to None is left out."""
    stated = {key: value for key, value in (SCHEMA | changes).items() if value is not None}
    (directory / f"{name}.avsc").write_text(json.dumps(stated) if text is None else text)
    return directory


def test_no_topic_and_no_schema_is_an_orphan() -> None:
    """Every schema that a topic names exists, and every schema is used by a topic."""
    assert orphans(load_topics(), load_schemas()) == []


def test_orphans_are_named(tmp_path: Path) -> None:
    """A topic without its schema and a schema without a topic are both found."""
    topics, schemas = read_topics(topic_file(tmp_path, schemas=["gone"])), read_schemas(schema_file(tmp_path))
    assert orphans(topics, schemas) == ["topic visits uses the schema gone, which does not exist", "schema visit is used by no topic"]


def test_every_file_in_topics_and_schemas_is_a_contract() -> None:
    """Nothing lies beside the contracts that would be overlooked."""
    assert {path.suffix for path in TOPICS.iterdir()} == {".yaml"}
    assert {path.suffix for path in SCHEMAS.iterdir()} == {".avsc"}


def test_every_topic_is_produced_and_consumed_by_a_part() -> None:
    """No topic is written for nobody, or read without being written."""
    assert all(topic.producers and topic.consumers for topic in load_topics().values())


def test_internal_values_are_defined_by_a_module_that_exists() -> None:
    """Where a topic's values are internal, the module that defines them is there."""
    modules = [topic.internal for topic in load_topics().values() if topic.internal]
    assert modules
    missing = [module for module in modules if not (TOPICS.parent / (module.replace(".", "/") + ".py")).is_file()]
    assert missing == []


def test_every_event_type_has_a_raw_topic_of_its_own() -> None:
    """Types and raw topics stand for each other, and raw records are kept for ever."""
    assert list(RAW_TOPICS) == list(TYPES)
    assert len(set(RAW_TOPICS.values())) == len(TYPES)
    assert {load_topics()[name].configs["retention.ms"] for name in RAW_TOPICS.values()} == {"-1"}


def test_topics_that_follow_from_each_other_have_equal_partitions() -> None:
    """Partition p of what is derived belongs to partition p of its source, so their numbers are one number."""
    assert len({topic.partitions for topic in load_topics().values()}) == 1


def test_changelogs_and_derived_topics_are_compacted_only() -> None:
    """What is the last word under its key is never deleted by time."""
    derived = {name for name in load_topics() if name.endswith("-changelog")} | {
        home_topic(name) for name in load_schemas() if name not in TYPES
    }
    assert {load_topics()[name].configs["cleanup.policy"] for name in derived} == {"compact"}


@pytest.mark.parametrize("name", TYPES)
def test_an_event_schema_has_the_fields_of_its_class_in_their_order(name: str) -> None:
    """Columns of a decoded batch build events by position; some schemas leave out the utk, which is never there."""
    fields = [field["name"] for field in load_schemas()[name][-1].json["fields"]]
    assert fields == [field for field in TYPES[name].__struct_fields__ if TYPES[name] not in WITHOUT_COOKIE or field != "utk"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"retention": "7d"}, "unknown key retention"),
        ({"purpose": None}, "purpose is missing"),
        ({"purpose": "  "}, "purpose must be a text"),
        ({"key": None}, "key is missing"),
        ({"partitions": 0}, "partitions must be an integer from 1 to 10000, not 0"),
        ({"partitions": "6"}, "partitions must be an integer from 1 to 10000, not '6'"),
        ({"partitions": True}, "partitions must be an integer from 1 to 10000, not True"),
        ({"schemas": None}, "expected one of schemas and internal"),
        ({"internal": "pipeline.core"}, "expected one of schemas and internal"),
        ({"schemas": None, "internal": "somewhere"}, "internal must name a module of pipeline"),
        ({"schemas": []}, "schemas must be a list of at least one name"),
        ({"schemas": ["visit", "visit"]}, "schemas must be a list of at least one name, each once"),
        ({"producers": ["nobody"]}, "producers: nobody is no part; parts are edge, identify, publish, record, sessionize"),
        ({"consumers": []}, "consumers must be a list of at least one name"),
        ({"configs": []}, "configs must map"),
        ({"configs": {"cleanup.policy": "delete"}}, "retention.ms is missing"),
        ({"configs": {"retention.ms": -1}}, "cleanup.policy must be one of compact, delete, not None"),
        ({"configs": {"cleanup.policy": "compact,delete", "retention.ms": -1}}, "cleanup.policy must be one of compact, delete"),
        ({"configs": {"cleanup.policy": "compact", "retention.ms": None}}, "retention.ms must be a text or a number, not None"),
        ({"name": "Visits"}, "the name of the file must be lower-case words joined by -"),
        ({"text": "purpose: [a"}, "not YAML"),
        ({"text": "- visits"}, "expected a mapping"),
    ],
)
def test_a_wrong_topic_file_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    """The error names the file and what is wrong in it."""
    with pytest.raises(ContractError) as refused:
        read_topics(topic_file(tmp_path, **changes))
    assert str(tmp_path) in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_id": None}, "schema_id must be an integer from 1 on, not None"),
        ({"schema_id": "1"}, "schema_id must be an integer from 1 on, not '1'"),
        ({"schema_id": 2}, "schema_id must be 1, 2, 3 ... without a gap"),
        ({"examples": None}, "examples must be a list of at least one record"),
        ({"examples": []}, "examples must be a list of at least one record"),
        ({"fields": None}, "fields must be a list"),
        ({"fields": [{"name": "utk", "type": "string"}]}, "no name or no doc"),
        ({"fields": [{"name": "more", "type": {"type": "map", "values": "string"}, "doc": "More."}]}, "no maps"),
        ({"type": "enum"}, "expected an Avro record"),
        ({"name": "visitor", "file": "visit.v1"}, "the record is called 'visitor', the file 'visit'"),
        ({"file": "visit"}, "the name of the file must be <record>.v<version>.avsc"),
        ({"file": "visit.v2"}, "versions of visit are [2]; expected 1, 2, 3"),
        ({"text": "{"}, "not JSON"),
    ],
)
def test_a_wrong_schema_file_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    """The error names the file or the directory and what is wrong."""
    file = changes.get("file", "visit.v1")
    stated = {key: value for key, value in (SCHEMA | changes).items() if key not in ("file", "text") and value is not None}
    (tmp_path / f"{file}.avsc").write_text(changes.get("text", json.dumps(stated)))
    with pytest.raises(ContractError) as refused:
        read_schemas(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert said in str(refused.value)


def test_an_id_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Two schemas cannot have one id."""
    schema_file(schema_file(tmp_path), "visit.v2")
    with pytest.raises(ContractError, match=r"each once; found \[1, 1\]"):
        read_schemas(tmp_path)


def test_a_directory_without_contracts_is_refused(tmp_path: Path) -> None:
    """An installation that lacks the contracts says so."""
    with pytest.raises(ContractError, match="the contracts belong beside the package"):
        read_topics(tmp_path)
