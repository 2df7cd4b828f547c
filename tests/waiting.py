"""Waiting in tests for what other processes and threads do."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(holds: Callable[[], T | None], what: str | Callable[[], str] = "", seconds: float = 60, every: float = 0.05) -> T:
    """What `holds` returns as soon as it is true; fails after `seconds`, and says what did not happen."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what if isinstance(what, str) else what()}"
        time.sleep(every)
    return found
