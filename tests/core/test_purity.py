"""The core computes and does nothing else (docs/decisions: pure core), and so do sessions in columns (pipeline/history)."""

import ast
from pathlib import Path

import pytest

import pipeline.core
import pipeline.history

CORE = Path(pipeline.core.__file__).parent
HISTORY = Path(pipeline.history.__file__).parent
ALLOWED = {
    "bisect", "calendar", "collections", "dataclasses", "datetime", "difflib", "enum", "functools", "hashlib", "idna", "itertools", "json",
    "math", "msgspec", "operator", "orjson", "re", "rfc8785", "string", "tomllib", "typing", "unicodedata", "urllib", "uuid",
}  # fmt: skip
IN_COLUMNS = {"lz4", "numpy", "polars", "secrets"}
"""What history has besides: columns, and a secret for its hashes, on which no result depends."""
FROM_OUTSIDE = {CORE: ("pipeline.core",), HISTORY: ("pipeline.core", "pipeline.history", "pipeline.adapters.raw_batch")}
IMPURE_CALLS = {"open", "print", "input", "now", "today", "utcnow", "uuid1", "uuid4", "getenv", "urlopen"}


def _name(module: Path) -> str:
    return f"{module.parent.name}/{module.name}"


modules = pytest.mark.parametrize("module", [*sorted(CORE.glob("*.py")), *sorted(HISTORY.glob("*.py"))], ids=_name)


@modules
def test_imports_only_what_is_pure(module: Path) -> None:
    """Kafka, Faust, ClickHouse, files, clocks, environment and randomness are out of the core's reach."""
    imported = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    allowed = ALLOWED | (IN_COLUMNS if module.parent == HISTORY else set())
    outside = {name for name in imported if not name.startswith(FROM_OUTSIDE[module.parent]) and name.split(".")[0] not in allowed}
    assert outside == set()


@modules
def test_calls_nothing_that_looks_outside(module: Path) -> None:
    """Not even through a module that is pure otherwise, such as datetime."""
    called = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call):
            called.add(node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
    assert called & IMPURE_CALLS == set()
