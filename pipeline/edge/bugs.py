"""Bugs of ours in the log: what kind and where, and never the values that a traceback would show."""

import traceback

from pipeline.logs import logger

log = logger("edge")


def note(error: BaseException) -> None:
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    log.error("a bug in the collector", kind=type(error).__name__, at=places)
