import re
from collections.abc import Iterator
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from infra import jars
from infra.jars import Jar
from infra.ports import LOOPBACK
from pipeline.errors import UserError

BYTES = b"a jar of pickles"
PICKLES = Jar("org.example.food:pickles:1.2", sha256(BYTES).hexdigest())


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is http.server's
        pass


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    lock = tmp_path / "jars.lock"
    lock.write_text(f"# comment\n{PICKLES.coordinate} {PICKLES.sha256}\n")
    return lock


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The pickles in a Maven repository, which jgo's settings file names as `central`. Gives the jar's file there."""
    jar = tmp_path / "repository/org/example/food/pickles/1.2/pickles-1.2.jar"
    jar.parent.mkdir(parents=True)
    jar.write_bytes(BYTES)
    server = ThreadingHTTPServer((LOOPBACK, 0), lambda *arguments: Quiet(*arguments, directory=str(tmp_path / "repository")))
    Thread(target=server.serve_forever, daemon=True).start()
    use_mirror(tmp_path, monkeypatch, server.server_port)
    yield jar
    server.shutdown()
    server.server_close()


def use_mirror(directory: Path, monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    (directory / "jgo.conf").write_text(f"[repositories]\ncentral = http://{LOOPBACK}:{port}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(directory / "jgo.conf"))


def test_missing_jars_are_fetched(repository: Path, cache: Path, lock: Path) -> None:
    assert jars.class_path(cache, lock) == [cache / "pickles-1.2.jar"]
    assert (cache / "pickles-1.2.jar").read_bytes() == BYTES
    assert [path.name for path in cache.iterdir()] == ["pickles-1.2.jar"]


def test_without_network_what_is_there_will_do(repository: Path, cache: Path, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jars.class_path(cache, lock)
    repository.unlink()
    assert jars.class_path(cache, lock) == [cache / "pickles-1.2.jar"]


def test_a_jar_that_was_damaged_in_the_cache_is_refused(repository: Path, cache: Path, lock: Path) -> None:
    [jar] = jars.class_path(cache, lock)
    jar.write_bytes(BYTES[:-1] + b"?")
    with pytest.raises(UserError, match=re.escape(str(jar))) as refusal:
        jars.class_path(cache, lock)
    assert PICKLES.sha256 in str(refusal.value)


def test_a_jar_that_is_not_what_was_locked_does_not_enter_the_cache(repository: Path, cache: Path, lock: Path) -> None:
    repository.write_bytes(b"a jar of jam")
    with pytest.raises(UserError, match=PICKLES.coordinate):
        jars.class_path(cache, lock)
    assert list(cache.iterdir()) == []


def test_a_repository_out_of_reach_is_said_with_what_to_do(
    tmp_path: Path, cache: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirror(tmp_path, monkeypatch, 1)
    with pytest.raises(UserError, match=f"{PICKLES.coordinate} cannot be fetched") as refusal:
        jars.class_path(cache, lock)
    assert jars.CACHE_VARIABLE in str(refusal.value)
    assert "[repositories]" in str(refusal.value)


def test_what_is_asked_for_is_what_is_locked() -> None:
    """jars.in was not changed without `make lock`."""
    asked = {line for line in jars.COORDINATES.read_text().splitlines() if line and not line.startswith("#")}
    assert asked <= {jar.coordinate for jar in jars.locked()}


def test_every_locked_jar_has_a_sum_and_none_stands_twice() -> None:
    locked = jars.locked()
    assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) for jar in locked)
    assert len({jar.filename for jar in locked}) == len(locked)
