"""Answers to texts that come again and again: bounded in their number and, since strangers write the texts, in their bytes."""

from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def remembered(most: int, longest: int = 512) -> Callable[[Callable[[str], Answer]], Callable[[str], Answer]]:
    """Decorates a pure function of a text: up to `most` answers are kept, but for texts of over `longest` bytes, or beyond ASCII.

    What comes again is short and plain; other characters would take up to four times the memory.
    """
    return lambda function: _Known(function, most, longest).__getitem__


class _Known(dict[str, Answer]):
    """Answers by text. A known one is found without a call of Python code; when there are too many, all are forgotten."""

    __slots__ = ("_function", "_longest", "_most")

    def __init__(self, function: Callable[[str], Answer], most: int, longest: int) -> None:
        self._function, self._most, self._longest = function, most, longest

    def __missing__(self, text: str) -> Answer:
        answer = self._function(text)
        if len(text) <= self._longest and text.isascii():
            if len(self) >= self._most:
                self.clear()
            self[text] = answer
        return answer
