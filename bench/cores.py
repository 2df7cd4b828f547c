"""Which cores of the machine a measurement gives to whom."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Cores(NamedTuple):
    """One for what is measured, the others for everybody else; both the same where there is but one."""

    measured: frozenset[int]
    others: frozenset[int]


def shared_out() -> Cores:
    *others, last = sorted(os.sched_getaffinity(0))
    return Cores(frozenset({last}), frozenset(others or {last}))


@contextmanager
def on(cores: frozenset[int]) -> Iterator[None]:
    """On these this thread runs, and processes that it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
