"""Bugs of ours in the log of the collector."""

from pipeline.logs import logger

log = logger("edge")


def note(error: BaseException) -> None:
    """What kind and where; the log shows nothing else of an exception."""
    log.error("a bug in the collector", exc_info=error)
