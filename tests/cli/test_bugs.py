"""Bugs are told by kinds and places, wherever they come from."""

import errno
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from clickhouse_driver.errors import ServerException
from confluent_kafka import KafkaError, KafkaException

from pipeline import bugs
from pipeline.bulk.crew import Unit, crew
from pipeline.bulk.workspace import Plan
from pipeline.core.policy import Policy
from pipeline.errors import UserError
from pipeline.settings import Settings

CANARY = "canary-person@secret.example"


def fail(error: BaseException, cause: Exception | None = None) -> None:
    raise error from cause


def failure(function: Callable[..., None], *arguments: object) -> BaseException:
    """What the function raises."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is
        function(*arguments)
    return caught.value


def deep(levels: int) -> None:
    if levels == 0:
        raise ValueError(CANARY)
    deep(levels - 1)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KeyError(CANARY), "KeyError"),
        (OSError(errno.ENOSPC, CANARY), f"OSError ({errno.ENOSPC})"),
        (ServerException(CANARY, 241), "clickhouse_driver.errors.ServerException (241)"),
        (KafkaException(KafkaError(29, CANARY)), "cimpl.KafkaException (29)"),
        (SystemExit(CANARY), "SystemExit"),
        (UserError(CANARY), "pipeline.errors.UserError"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_an_error_is_named_with_its_number(error: BaseException, kind: str) -> None:
    """That of the system, of ClickHouse or of Kafka: without it nobody knows what they had to say."""
    assert bugs.trace(failure(fail, error)).splitlines()[-1] == kind


def test_causes_come_first() -> None:
    """Each with its places: a cause that was named, what was being handled, and the members of a group."""
    caused = TypeError(CANARY)
    failure(fail, caused, KeyError(CANARY))

    def handle() -> None:
        try:
            fail(ExceptionGroup(CANARY, [ValueError(CANARY), caused]))
        except ExceptionGroup:
            deep(0)

    told = bugs.trace(failure(handle))
    assert CANARY not in told
    assert re.sub(r"test_bugs\.py:\d+ ", "", told).splitlines() == [
        bugs.HEADING,
        "  tests/cli/test_causes_come_first.<locals>.handle",
        "  tests/cli/fail",
        "ExceptionGroup",
        "of which one is:",
        "ValueError",
        "of which one is:",
        "KeyError",
        "which led to:",
        "  tests/cli/failure",
        "  tests/cli/fail",
        "TypeError",
        "while that was handled:",
        "  tests/cli/failure",
        "  tests/cli/test_causes_come_first.<locals>.handle",
        "  tests/cli/deep",
        "ValueError",
    ]


def test_an_exception_that_is_its_own_cause_is_told_once() -> None:
    first, second = KeyError(CANARY), ValueError(CANARY)
    first.__cause__, second.__cause__ = second, first
    assert bugs.trace(first).splitlines() == [bugs.HEADING, "ValueError", "which led to:", "KeyError"]


def test_a_deep_recursion_is_told_by_its_ends() -> None:
    told = bugs.trace(failure(deep, 500)).splitlines()
    assert len(told) < 50
    assert "  ... 462 more ..." in told


def test_nobody_handles_it(tmp_path: Path) -> None:
    """A thread's exception, or a destructor's, reaches stderr without what it says: in `python -m pipeline`, whatever it does."""
    program = f"""
import runpy, threading
from pipeline import cli

class Destroyed:
    def __del__(self):
        raise KeyError({CANARY!r})

def fail():
    raise LookupError({CANARY!r})

def main():
    thread = threading.Thread(target=fail, name={CANARY!r})
    thread.start()
    thread.join()
    Destroyed()
    return 3

cli.main = main
runpy.run_module("pipeline", run_name="__main__")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert CANARY not in ended.stderr
    assert re.search(r"a thread ended with an exception: this is a bug\n.*\n(  .*\n)*  <string>:10 fail\nLookupError\n", ended.stderr)
    assert re.search(r"nobody could handle: this is a bug\n.*\n  <string>:7 Destroyed\.__del__\nKeyError\n", ended.stderr)


def look_up(_: Plan, email: str) -> None:
    raise KeyError(email)


def refuse(_: Plan) -> None:
    raise UserError("do something")


def test_a_process_of_a_rebuild_tells_where_its_bug_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The exception comes back without its places, and with what it says: neither is for the log."""
    with crew(Plan(Settings(), Policy(), {}, {}, tmp_path), lambda *_: None) as workers, pytest.raises(UserError, match="do something"):
        workers.do("one", [Unit("first", refuse)])
    assert bugs.HEADING not in capfd.readouterr().err
    with crew(Plan(Settings(), Policy(), {}, {}, tmp_path), lambda *_: None) as workers, pytest.raises(KeyError) as failed:
        workers.do("two", [Unit("second", look_up, (CANARY,))])
    said = capfd.readouterr().err
    assert "this is a bug" in said
    assert "unit=second" in said
    assert re.search(r"  tests/cli/test_bugs\.py:\d+ look_up\nKeyError", said)
    assert CANARY not in said + bugs.trace(failed.value)
