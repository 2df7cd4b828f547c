"""Logging: structlog for us, and the same look for the libraries that log through the standard library.

A log line has a time, a level, an event and what it is about: names, counts, offsets, partitions. Never what is
personal: no email, cookie, address, url or record.
"""

import logging
import sys
from typing import Any

import structlog

from pipeline.settings import Log

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
    logging.basicConfig(handlers=[handler], level=log.level.upper(), force=True)
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


def _rendering(log: Log) -> list[Any]:
    """The last steps for a line, ours or a library's."""
    drop = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if log.format == "json":
        return [drop, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [
        drop,
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0),
    ]
