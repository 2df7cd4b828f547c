"""What log lines look like."""

import asyncio
import contextlib
import gc
import io
import json
import logging
import re
import time

import aiokafka.errors
import pytest

from pipeline import bugs, logs
from pipeline.settings import Log

LATE = logs.logger("made-before-configure", partition=3)


def test_a_line_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    """Text: time, level, event, and what it is about."""
    logs.configure(Log())
    logs.logger("record", partition=3).info("inserted", rows=20_000)
    (line,) = capfd.readouterr().err.splitlines()
    assert "inserted" in line
    assert "rows=20000" in line
    assert "partition=3" in line


def test_a_line_for_programs(capfd: pytest.CaptureFixture[str]) -> None:
    """JSON: one object a line, the places of exceptions included, libraries included."""
    logs.configure(Log(format="json"))
    LATE.info("inserted", rows=20_000)
    try:
        int("broken")
    except ValueError:
        LATE.exception("failed")
    logging.getLogger("some.library").warning("watch %s", "out")
    inserted, failed, library = map(json.loads, capfd.readouterr().err.splitlines())
    assert (inserted["event"], inserted["part"], inserted["rows"], inserted["level"]) == (
        "inserted",
        "made-before-configure",
        20_000,
        "info",
    )
    heading, *places, kind = failed["exception"].splitlines()
    assert (heading, kind) == (bugs.HEADING, "ValueError")
    assert re.fullmatch(r"  tests/cli/test_logs\.py:\d+ test_a_line_for_programs", places[-1])
    assert (library["event"], library["level"]) == ("watch out", "warning")


@pytest.mark.parametrize("log", [Log(), Log(format="json"), Log(level="debug")], ids=["text", "json", "debug"])
def test_an_exception_says_nothing(log: Log, capfd: pytest.CaptureFixture[str]) -> None:
    """Kinds and places are there, those of causes too, and never messages, arguments or variables: they hold what people typed."""
    logs.configure(log)
    people = {"a@x.io": 1}
    try:
        try:
            people["somebody@x.io"]
        except KeyError as error:
            raise ValueError(f"no {error}") from error
    except ValueError as error:
        logs.logger("record").exception("failed")
        logs.logger("record").critical("failed", exc_info=error)
        logging.getLogger("some.library").exception("Crashed reason=%r", error)  # noqa: TRY401 - as mode does
        logging.getLogger("some.library").warning("Will retry: %s", error)
    said = capfd.readouterr().err
    assert "somebody" not in said
    told = {bugs.HEADING: 3, "KeyError": 3, "which led to:": 3, "Crashed reason='ValueError'": 1, "Will retry: ValueError": 1}
    assert {text: said.count(text) for text in told} == told
    assert len(re.findall(r"  tests/cli/test_logs\.py:\d+ test_an_exception_says_nothing(?:\n|\\n)KeyError", said)) == 3


def test_what_went_wrong_with_a_connection_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    """It is no secret, and what somebody looks for first."""
    logs.configure(Log())
    library = logging.getLogger("aiokafka")
    library.error("Unable to connect: %s", ConnectionRefusedError(111, "Connection refused"))
    library.error("Heartbeat failed: %s", aiokafka.errors.GroupCoordinatorNotAvailableError("node 1"))
    said = capfd.readouterr().err
    assert "Unable to connect: [Errno 111] Connection refused" in said
    assert "GroupCoordinatorNotAvailableError: node 1" in said


def test_no_level_shows_what_goes_over_a_connection(capfd: pytest.CaptureFixture[str]) -> None:
    """At debug aiokafka would show the answers of brokers, with the beginnings of records, and httpcore what is asked of the registry."""
    logs.configure(Log(level="debug"))
    for library in ("aiokafka.conn", "httpcore.http11"):
        logging.getLogger(library).debug("Response: %s", b"somebody@x.io")
    logging.getLogger("aiokafka.client").debug("shown")
    assert ["shown" in line for line in capfd.readouterr().err.splitlines()] == [True]


def test_asyncio_does_not_show_whose_exception_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    """It would show the task with its exception, and the callback with its arguments."""
    logs.configure(Log())

    def callback(email: str) -> None:
        raise LookupError(email)

    async def task() -> None:
        raise KeyError("somebody@x.io")

    async def play() -> None:
        asyncio.create_task(task())  # noqa: RUF006 - nobody asks for its exception
        asyncio.get_running_loop().call_soon(callback, "somebody@x.io")
        await asyncio.sleep(0.01)

    asyncio.run(play())
    gc.collect()
    said = capfd.readouterr().err
    assert "somebody" not in said
    for text in ("Task exception was never retrieved", "KeyError", "Exception in callback", "LookupError"):
        assert text in said


def test_a_line_that_cannot_be_written_tells_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """The standard library would print the traceback of what is being handled, with what its exception says."""
    closed = io.StringIO()
    with contextlib.redirect_stderr(closed):
        logs.configure(Log())
    closed.close()
    try:
        int("somebody@x.io")
    except ValueError:
        logs.logger("record").error("failed")
    assert capfd.readouterr().err == ""


def test_level(capfd: pytest.CaptureFixture[str]) -> None:
    """What is less severe than the level is not shown; chatty libraries are quiet before that."""
    logs.configure(Log(level="warning"))
    logs.logger("record").info("not shown")
    logs.configure(Log(level="info"))
    logging.getLogger("aiokafka").info("not shown")
    logs.logger("record").debug("not shown")
    assert capfd.readouterr().err == ""


def test_a_library_says_the_same_thing_once_in_a_while(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As aiokafka does several times a second while no broker answers; what is ours, or has a traceback, is always said."""
    monkeypatch.setattr(logs, "REPEATED_EVERY_S", 0.3)
    logs.configure(Log())
    library = logging.getLogger("some.library")
    for number in range(3):
        library.warning("heartbeat %d failed", number)
        logs.logger("record").info("inserted")
    library.warning("another thing")
    try:
        int("broken")
    except ValueError:
        for _ in range(2):
            library.exception("another thing")
    time.sleep(0.4)
    library.warning("heartbeat %d failed", 3)
    said = capfd.readouterr().err
    assert [said.count(f"heartbeat {number} failed") for number in range(4)] == [1, 0, 0, 1]
    assert said.count("inserted") == 3
    assert said.count("another thing") == 3
