"""The jars of Apache Kafka: pinned with SHA-256 sums in `jars.lock`, fetched through jgo, verified, kept in a cache.

    python -m infra.jars            fetch what is missing, verify everything
    python -m infra.jars --lock     resolve jars.in again and write jars.lock

A mirror or a company's repository: jgo's own settings file (section [repositories]; the name `central` replaces the
default). jgo does not verify sums, so a jar is moved into the cache only after its sum was found right, and each use
verifies all of them again (70 ms): what is on the class path is what was locked.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

HERE = Path(__file__).parent
COORDINATES = HERE / "jars.in"
LOCK = HERE / "jars.lock"
CACHE_VARIABLE = "KAFKA_JARS"
"""Where the jars are kept, if not in the user's cache directory."""
PARALLEL = 4
TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock file: `group:artifact:version sha256`."""

    coordinate: str
    sha256: str

    @property
    def filename(self) -> str:
        _group, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def locked(lock: Path = LOCK) -> list[Jar]:
    """The jars of the lock file, in its order."""
    return [Jar(*line.split()) for line in _lines(lock)]


def cache_dir() -> Path:
    """$KAFKA_JARS, else a directory of ours in the user's cache."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faust-timelines" / "jars"


def class_path(cache: Path | None = None, lock: Path = LOCK) -> list[Path]:
    """All locked jars as verified files; fetches those that are missing. UserError if one cannot be had, or is damaged."""
    cache = cache or cache_dir()
    jars = locked(lock)
    missing = [jar for jar in jars if not (cache / jar.filename).exists()]
    if missing:
        _fetch(missing, cache)
    for jar in jars:
        _verify(jar, cache / jar.filename)
    return [cache / jar.filename for jar in jars]


def _verify(jar: Jar, path: Path) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != jar.sha256:
        raise UserError(
            f"{path} is not the file that {LOCK.name} names: its SHA-256 is {found}, that of {jar.coordinate} is {jar.sha256}. "
            "Delete the file and run `make install` again; if it comes back, what your repository or proxy delivers is not what was locked."
        )


def _fetch(jars: Sequence[Jar], cache: Path) -> None:
    """Through a scratch directory, so that the cache holds whole, verified files only, whoever else fetches at the same time."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as scratch, ThreadPoolExecutor(PARALLEL) as threads:
        for jar, path in zip(jars, threads.map(lambda jar: _download(jar.coordinate, Path(scratch)), jars), strict=True):
            _verify(jar, path)
            path.replace(cache / jar.filename)


def _download(coordinate: str, repository: Path) -> Path:
    import requests

    try:
        return Path(maven(repository).create_dependency(coordinate).artifact.resolve())
    except (requests.RequestException, RuntimeError, OSError) as error:
        raise UserError(
            f"the Kafka jar {coordinate} cannot be fetched: {error}\n"
            f"Needed once, into {cache_dir()} ({CACHE_VARIABLE}). Without access to Maven Central, name a mirror as `central` in "
            "section [repositories] of jgo's settings file, or copy the directory from a machine that has it."
        ) from None


def maven(repository: Path) -> Any:
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext
    from jgo.maven._core import DEFAULT_REMOTE_REPOS

    return MavenContext(
        repo_cache=repository,
        remote_repos={**DEFAULT_REMOTE_REPOS, **GlobalSettings.load().repositories},
        timeout=TIMEOUT_SECONDS,
    )


def resolve(coordinates: Path = COORDINATES) -> Iterator[Jar]:
    """What the coordinates and everything that they need at run time resolve to now, with the sums of what was fetched."""
    with tempfile.TemporaryDirectory() as scratch:
        repository = maven(Path(scratch))
        named, transitive = repository.resolver.resolve([repository.create_dependency(line) for line in _lines(coordinates)])
        artifacts = [dependency.artifact for dependency in [*named, *transitive] if dependency.scope in (None, "compile", "runtime")]
        with ThreadPoolExecutor(PARALLEL) as threads:
            for artifact, path in zip(artifacts, threads.map(lambda artifact: artifact.resolve(), artifacts), strict=True):
                sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
                yield Jar(f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}", sha256)


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.jars", description="Fetch and verify the jars of Apache Kafka.")
    parser.add_argument("--lock", action="store_true", help=f"resolve {COORDINATES.name} again and write {LOCK.name}")
    given = parser.parse_args(arguments)
    if given.lock:
        jars = sorted(resolve(), key=lambda jar: jar.coordinate)
        header = f"# From {COORDINATES.name}, by `python -m infra.jars --lock`: group:artifact:version, SHA-256.\n"
        LOCK.write_text(header + "".join(f"{jar.coordinate} {jar.sha256}\n" for jar in jars), encoding="utf-8")
    try:
        paths = class_path()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(paths)} jars in {paths[0].parent}, sums verified")
    return 0


if __name__ == "__main__":
    sys.exit(main())
