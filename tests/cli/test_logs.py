"""What log lines look like."""

import contextlib
import io
import json
import logging
import time

import pytest

from pipeline import logs
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
    """JSON: one object a line, exceptions included, libraries included."""
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
    assert "ValueError: invalid literal" in failed["exception"]
    assert (library["event"], library["level"]) == ("watch out", "warning")


def test_a_traceback_shows_no_values(capfd: pytest.CaptureFixture[str]) -> None:
    """A traceback has places, and never the variables there: they hold what people typed."""
    for log in (Log(), Log(format="json")):
        logs.configure(log)
        email = "somebody@x.io"
        try:
            len(email) / 0
        except ZeroDivisionError:
            logs.logger("record").exception("failed")
        assert "somebody" not in capfd.readouterr().err


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
