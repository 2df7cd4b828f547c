"""Logging: structlog for us, and the same look for the libraries that log through the standard library.

A log line has a time, a level, an event and what it is about: names, counts, offsets, partitions. Never what is
personal: no email, cookie, address, url or record.
"""

import logging
import sys
from typing import Any

import structlog

from pipeline.settings import Log

REPEATED_EVERY_S = 5.0
"""How often a library may say the same thing: while Kafka is away, aiokafka says so several times a second."""
_SAYINGS = 1_000
"""So many are known apart."""
_CHATTY = ("faust", "mode", "aiokafka", "clickhouse_driver", "asyncio", "httpx", "pipeline")
"""Libraries that say too much at info: only warnings and worse are shown. Faust's services log under the module of their class, so ours."""


def configure(log: Log) -> None:
    """Sends every log line of the process to stderr, as `log` says. May be called again."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True)
        if log.format == "json"
        else structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_rendering(log)))
    handler.addFilter(_Seldom())
    logging.basicConfig(handlers=[handler], level=log.level.upper(), force=True)
    logging.raiseExceptions = False  # a line that cannot be written would be followed by a traceback, with what it is about
    for library in _CHATTY:
        logging.getLogger(library).setLevel(logging.DEBUG if log.level == "debug" else logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(log.level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def logger(part: str, **about: object) -> Any:
    """What a part logs with; may be made before `configure` is called."""
    return structlog.get_logger(part, part=part, **about)


class _Seldom(logging.Filter):
    """Lets through what a library says for the first time in a while; what is ours, or has a traceback, always."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info or not isinstance(record.msg, str):  # structlog's, that is ours, are dictionaries
            return True
        key = record.name, record.msg  # before its arguments are put in
        if len(self._said) >= _SAYINGS:
            self._said.clear()
        is_new = record.created - self._said.get(key, float("-inf")) >= REPEATED_EVERY_S
        if is_new:
            self._said[key] = record.created
        return is_new


def _rendering(log: Log) -> list[Any]:
    """The last steps for a line, ours or a library's."""
    drop = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if log.format == "json":
        return [drop, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [
        drop,
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0),
    ]
