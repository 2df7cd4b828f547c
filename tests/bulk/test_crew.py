"""Units of work in processes."""

import os
import signal
from pathlib import Path

import polars
import pytest

from pipeline.bulk.crew import Unit, crew
from pipeline.bulk.workspace import Plan
from pipeline.core.policy import Policy
from pipeline.errors import UserError
from pipeline.settings import Settings


def double(_: Plan, number: int) -> int:
    return 2 * number


def polars_threads(_: Plan) -> int:
    return polars.thread_pool_size()


def be_killed(_: Plan) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_told_and_what_is_done_stays_done(tmp_path: Path) -> None:
    """As the system does for want of memory: no traceback, and the next attempt does what is left."""
    plan = Plan(Settings(), Policy(), {}, {}, tmp_path)
    with crew(plan, lambda *_: None) as workers:
        assert workers.do("one", [Unit("first", double, (1,))]) == {"first": 2}
        with pytest.raises(UserError, match="'two': most often by the system, for want of memory"):
            workers.do("two", [Unit("second", be_killed)])
    with crew(plan, lambda *_: None) as workers:
        assert workers.do("both", [Unit("first", be_killed), Unit("second", double, (2,))]) == {"first": 2, "second": 4}


def test_a_process_is_one_thread_of_polars(tmp_path: Path) -> None:
    """There are as many processes as cores: each with so many threads, they would be in each other's way."""
    with crew(Plan(Settings(), Policy(), {}, {}, tmp_path), lambda *_: None) as workers:
        assert workers.do("one", [Unit("first", polars_threads)]) == {"first": 1}
