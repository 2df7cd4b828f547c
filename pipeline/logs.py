"""Logging: structlog for us, and the same look for the libraries that log through the standard library.

A log line has a time, a level, an event and what it is about: names, counts, offsets, partitions. Never what is
personal: no email, cookie, address, url or record. So of an exception, ours or a library's, there are the kind and the places (bugs.py).
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from pipeline import bugs
from pipeline.settings import Log

REPEATED_EVERY_S = 5.0
"""How often a library may say the same thing: while Kafka is away, aiokafka says so several times a second."""
_SAYINGS = 1_000
"""So many are known apart."""
_CHATTY = ("faust", "mode", "aiokafka", "clickhouse_driver", "asyncio", "httpx", "pipeline")
"""Libraries that say too much at info: only warnings and worse are shown. Faust's services log under the module of their class, so ours."""
_INDISCREET = ("aiokafka.conn", "httpcore")
"""At debug they would show what they send and receive: records, headers. ClickHouse's driver is silenced where it is used."""


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
    handler.addFilter(_Discreet())
    logging.basicConfig(handlers=[handler], level=log.level.upper(), force=True)
    logging.raiseExceptions = False  # a line that cannot be written would be followed by a traceback, with what it is about
    for library in _CHATTY:
        logging.getLogger(library).setLevel(logging.DEBUG if log.level == "debug" else logging.WARNING)
    for library in _INDISCREET:
        logging.getLogger(library).setLevel(logging.WARNING)
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


class _Discreet(logging.Filter):
    """Takes out of a library's line what an exception says, and what asyncio shows of the task or callback that had it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record.msg, str):
            return True
        if isinstance(record.args, tuple):
            record.args = tuple(_named(argument) for argument in record.args)
        if record.exc_info:
            record.msg = record.msg.partition("\n")[0]
        if record.name == "asyncio":
            record.msg = record.msg.partition("\n")[0].partition("<")[0].rstrip()
        return True


def _named(argument: object) -> object:
    """What has gone wrong with a connection or a broker is no secret; of other exceptions the kind is told."""
    if isinstance(argument, BaseException) and not isinstance(argument, OSError) and type(argument).__module__ != "aiokafka.errors":
        return bugs.kind(argument)
    return argument


def _places_only(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The exception of a line, as `bugs.trace` tells it."""
    about = line.pop("exc_info", None)
    if isinstance(about, tuple):
        about = about[1]
    elif about and not isinstance(about, BaseException):
        about = sys.exc_info()[1]
    if isinstance(about, BaseException):
        line["exception"] = bugs.trace(about)
    return line


def _rendering(log: Log) -> list[Any]:
    """The last steps for a line, ours or a library's."""
    drop = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if log.format == "json":
        return [drop, _places_only, structlog.processors.JSONRenderer()]
    return [
        drop,
        _places_only,
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0),
    ]
