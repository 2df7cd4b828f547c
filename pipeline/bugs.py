"""Bugs of ours, told without what they say: the kinds of exceptions and the places in the code.

The message of an exception nobody expected, its arguments and the variables around it hold what people typed: a KeyError of an address
is the address. So no log line and nothing on stderr has any of it, whichever part or library the exception comes from.
"""

import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

HEADING = "Traceback (kinds and places only: what exceptions say may be personal):"
_ROOT = f"{Path(__file__).resolve().parents[1]}/"
_MOST_PLACES = 40


def trace(error: BaseException, since: TracebackType | None = None) -> str:
    """Where the exception came from and what caused it, the first cause first, the innermost place last.

    `since`: where its own places begin, instead of the outermost one.
    """
    return "\n".join([HEADING, *_told(error, since or error.__traceback__, set())])


def keep_quiet() -> None:
    """From now on this process tells exceptions that nobody catches, in threads and destructors, like all others."""
    threading.excepthook = _in_a_thread
    sys.unraisablehook = _in_a_destructor


def kind(error: BaseException) -> str:
    """The type, with the number of the error if it has one: a system's, a server's."""
    of = type(error)
    name = of.__qualname__ if of.__module__ == "builtins" else f"{of.__module__}.{of.__qualname__}"
    numbers = [number for number in map(_number, (error, *error.args[:1])) if number is not None]
    return f"{name} ({numbers[0]})" if numbers else name


def _number(error: object) -> int | None:
    """As OSError, ClickHouse's ServerException and the KafkaError within a KafkaException say it."""
    if type(error).__name__ == "KafkaError" and callable(code := getattr(error, "code", None)):
        error = code()
    elif isinstance(error, Exception):
        error = getattr(error, "errno", None) or getattr(error, "code", None)
    else:
        return None
    return error if type(error) is int else None


def _told(error: BaseException, trace: TracebackType | None, known: set[int]) -> Iterator[str]:
    known.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in known:
        yield from _told(before, before.__traceback__, known)
        yield "which led to:" if error.__cause__ else "while that was handled:"
    places = [f"  {_short(frame.f_code.co_filename)}:{line} {frame.f_code.co_qualname}" for frame, line in traceback.walk_tb(trace)]
    if len(places) > _MOST_PLACES:
        half = _MOST_PLACES // 2
        places[half:-half] = [f"  ... {len(places) - 2 * half} more ..."]
    yield from places
    yield kind(error)
    for member in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield "of which one is:"
        yield from _told(member, member.__traceback__, known)


def _short(file: str) -> str:
    """From our root, or from a library's."""
    return file.rpartition("/site-packages/")[2].removeprefix(_ROOT)


def _in_a_thread(about: threading.ExceptHookArgs) -> None:
    if about.exc_value is not None and not isinstance(about.exc_value, SystemExit):
        _tell("a thread ended with an exception: this is a bug", about.exc_value)


def _in_a_destructor(about: "sys.UnraisableHookArgs") -> None:
    if about.exc_value is not None:
        _tell("an exception that nobody could handle: this is a bug", about.exc_value)


def _tell(what: str, error: BaseException) -> None:
    if sys.stderr is not None:
        print(f"{what}\n{trace(error)}", file=sys.stderr, flush=True)
