"""The contracts, read from files: `topics/<name>.yaml` for every topic, `schemas/<record>.v<version>.avsc` for every record.

A topic's values are Avro of the records in `schemas`, or `internal` bytes that the named module defines. A schema file
is Avro JSON with two attributes more: `schema_id`, its id where no registry is configured (ids of all files are
1, 2, 3 ... and never change), and `examples`, records that it describes (times as epoch milliseconds).
A wrong file is a ContractError that names the file, what is wrong and what was expected.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from pipeline.core.events import TYPES
from pipeline.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TOPICS = ROOT / "topics"
SCHEMAS = ROOT / "schemas"

PARTS = frozenset({"publish", "edge", "sessionize", "identify", "record"})
"""The parts that produce and consume."""

_TOPIC_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SCHEMA_FILE = re.compile(r"([a-z][a-z0-9_]*)\.v([1-9][0-9]*)\.avsc")
_REQUIRED = frozenset({"purpose", "key", "partitions", "configs", "producers", "consumers"})
_VALUES = frozenset({"schemas", "internal"})
_CLEANUP = frozenset({"delete", "compact"})


class ContractError(UserError):
    """A contract file is wrong, or two of them do not fit together."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `configs` are Kafka's topic settings. Values are Avro of the records in `schemas`, or what the module `internal` says."""

    name: str
    purpose: str
    key: str
    schemas: tuple[str, ...]
    internal: str | None
    partitions: int
    configs: Mapping[str, str]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """One version of a record. `json` is the Avro schema as it is registered: without `schema_id` and `examples`."""

    name: str
    version: int
    schema_id: int
    json: Mapping[str, Any]
    examples: tuple[Mapping[str, Any], ...]

    @property
    def text(self) -> str:
        return json.dumps(dict(self.json), ensure_ascii=False)


def read_topics(directory: Path) -> dict[str, Topic]:
    """Every topic by name. ContractError if a file is wrong."""
    return {path.stem: _topic(path) for path in _files(directory, "*.yaml")}


def read_schemas(directory: Path) -> dict[str, list[SchemaVersion]]:
    """Every record's versions by name, oldest first. ContractError if a file is wrong, or ids or versions have gaps."""
    records: dict[str, list[SchemaVersion]] = {}
    versions = [_schema(path) for path in _files(directory, "*.avsc")]
    for schema in sorted(versions, key=lambda schema: (schema.name, schema.version)):
        records.setdefault(schema.name, []).append(schema)
    for name, known in records.items():
        if [schema.version for schema in known] != list(range(1, len(known) + 1)):
            raise ContractError(f"{directory}: versions of {name} are {[s.version for s in known]}; expected 1, 2, 3 ... without a gap")
    if sorted(schema.schema_id for schema in versions) != list(range(1, len(versions) + 1)):
        raise ContractError(
            f"{directory}: schema_id must be 1, 2, 3 ... without a gap, each once; found {sorted(s.schema_id for s in versions)}. "
            f"Give a new schema the next id, and never change one."
        )
    return records


def orphans(topics: Mapping[str, Topic], schemas: Mapping[str, list[SchemaVersion]]) -> list[str]:
    """What does not fit together, a sentence each: a topic whose schema does not exist, a schema that no topic uses."""
    used = {name for topic in topics.values() for name in topic.schemas}
    uses = [(topic.name, name) for topic in topics.values() for name in topic.schemas]
    missing = [f"topic {topic} uses the schema {name}, which does not exist" for topic, name in uses if name not in schemas]
    return missing + [f"schema {name} is used by no topic" for name in schemas if name not in used]


@cache
def load_topics() -> Mapping[str, Topic]:
    """The project's own topics, by name."""
    return MappingProxyType(read_topics(TOPICS))


@cache
def load_schemas() -> Mapping[str, list[SchemaVersion]]:
    """The project's own schemas: versions by record name, oldest first."""
    return MappingProxyType(read_schemas(SCHEMAS))


def home_topic(record: str) -> str:
    """The topic that holds this record and no other: page_view -> page-views."""
    for topic in load_topics().values():
        if topic.schemas == (record,):
            return topic.name
    raise ContractError(f"no topic in {TOPICS} is made for the record {record} alone")


def _files(directory: Path, pattern: str) -> list[Path]:
    paths = sorted(directory.glob(pattern))
    if not paths:
        raise ContractError(f"{directory}: no {pattern} here; the contracts belong beside the package `pipeline`")
    return paths


def _topic(path: Path) -> Topic:
    try:
        stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ContractError(f"{path}: not YAML: {error}") from None
    check = _Check(path)
    check.that(isinstance(stated, dict), "expected a mapping")
    check.that(_TOPIC_NAME.fullmatch(path.stem), "the name of the file must be lower-case words joined by -")
    check.that(not (unknown := set(stated) - _REQUIRED - _VALUES), f"unknown key {_list(unknown)}; known are {_list(_REQUIRED | _VALUES)}")
    check.that(not (missing := _REQUIRED - set(stated)), f"{_list(missing)} is missing")
    check.that(len(_VALUES & set(stated)) == 1, "expected one of schemas and internal, to say what values are")
    for name in ("purpose", "key"):
        check.that(isinstance(stated[name], str) and stated[name].strip(), f"{name} must be a text")
    partitions = stated["partitions"]
    check.that(type(partitions) is int and 1 <= partitions <= 10_000, f"partitions must be an integer from 1 to 10000, not {partitions!r}")
    for name in ("producers", "consumers"):
        check.names(name, stated[name])
        strangers = set(stated[name]) - PARTS
        check.that(not strangers, f"{name}: {_list(strangers)} is no part; parts are {_list(PARTS)}")
    if "schemas" in stated:
        check.names("schemas", stated["schemas"])
    else:
        check.that(str(stated["internal"]).startswith("pipeline."), "internal must name a module of pipeline")
    return Topic(
        name=path.stem,
        purpose=stated["purpose"],
        key=stated["key"],
        schemas=tuple(stated.get("schemas", ())),
        internal=stated.get("internal"),
        partitions=partitions,
        configs=_configs(check, stated["configs"]),
        producers=tuple(stated["producers"]),
        consumers=tuple(stated["consumers"]),
    )


def _configs(check: "_Check", stated: Any) -> Mapping[str, str]:
    check.that(isinstance(stated, dict), "configs must map Kafka's names of topic settings to values")
    for name, value in stated.items():
        check.that(isinstance(name, str) and type(value) in (str, int, float), f"configs: {name} must be a text or a number, not {value!r}")
    cleanup = stated.get("cleanup.policy")
    check.that(cleanup in _CLEANUP, f"configs: cleanup.policy must be one of {_list(_CLEANUP)}, not {cleanup!r}")
    check.that(
        cleanup == "compact" or "retention.ms" in stated, "configs: retention.ms is missing: how long are records kept? -1 is for ever"
    )
    return MappingProxyType({name: str(value) for name, value in stated.items()})


def _schema(path: Path) -> SchemaVersion:
    check = _Check(path)
    named = _SCHEMA_FILE.fullmatch(path.name)
    check.that(named, "the name of the file must be <record>.v<version>.avsc")
    assert named is not None
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ContractError(f"{path}: not JSON: {error}") from None
    check.that(isinstance(stated, dict) and stated.get("type") == "record", "expected an Avro record")
    check.that(stated.get("name") == named[1], f"the record is called {stated.get('name')!r}, the file {named[1]!r}")
    schema_id, examples = stated.pop("schema_id", None), stated.pop("examples", None)
    check.that(type(schema_id) is int and schema_id >= 1, f"schema_id must be an integer from 1 on, not {schema_id!r}")
    check.that(isinstance(examples, list) and examples, "examples must be a list of at least one record")
    check.that(isinstance(stated.get("fields"), list), "fields must be a list")
    for field in stated["fields"]:
        check.that(isinstance(field, dict) and field.get("name") and field.get("doc"), f"a field has no name or no doc: {field!r}")
    check.that('"map"' not in json.dumps(stated), "no maps: not every reader has them; use an array of (name, value), or JSON text")
    return SchemaVersion(named[1], int(named[2]), schema_id, MappingProxyType(stated), tuple(examples))


@dataclass(frozen=True, slots=True)
class _Check:
    """Statements about one file that must hold."""

    path: Path

    def that(self, holds: object, otherwise: str) -> None:
        if not holds:
            raise ContractError(f"{self.path}: {otherwise}")

    def names(self, key: str, value: Any) -> None:
        good = isinstance(value, list) and value and all(isinstance(name, str) and name for name in value) and len(set(value)) == len(value)
        self.that(good, f"{key} must be a list of at least one name, each once, not {value!r}")


def _list(names: set[Any] | frozenset[str]) -> str:
    return ", ".join(sorted(map(str, names)))


RAW_TOPICS: Mapping[str, str] = MappingProxyType({name: home_topic(name) for name in TYPES})
"""Event type -> the raw topic of that type."""
