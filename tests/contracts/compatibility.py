"""Whether every version of a record can be read by every later one (Avro's own rules, as the `avro` library knows them)."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import avro.compatibility
import avro.schema

from pipeline.adapters.contracts import SchemaVersion


def incompatibilities(records: Mapping[str, Sequence[SchemaVersion]]) -> list[str]:
    """A sentence for each pair of versions of which the newer cannot read the older."""
    pairs = [pair for versions in records.values() for pair in combinations(versions, 2)]
    return [sentence for older, newer in pairs if (sentence := _incompatibility(older, newer))]


def _incompatibility(older: SchemaVersion, newer: SchemaVersion) -> str | None:
    problems = _problems(dict(older.json), dict(newer.json))
    if not problems:
        return None
    fields = [field["name"] for field in newer.json["fields"] if _problems(_only(older, field["name"]), _only(newer, field["name"]))]
    return f"{newer.name}.v{newer.version} cannot read {older.name}.v{older.version} (fields: {', '.join(fields)}): {'; '.join(problems)}"


def _problems(older: Mapping[str, Any], newer: Mapping[str, Any]) -> list[str]:
    checker = avro.compatibility.ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    reader, writer = (avro.schema.parse(json.dumps(schema)) for schema in (newer, older))
    return sorted(checker.get_compatibility(reader=reader, writer=writer).messages)


def _only(version: SchemaVersion, name: str) -> dict[str, Any]:
    """The schema without all other fields: the library does not say which field it means."""
    return {**version.json, "fields": [field for field in version.json["fields"] if field["name"] == name]}
