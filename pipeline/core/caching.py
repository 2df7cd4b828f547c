"""Answers to texts that come again and again: bounded in their number and, since strangers write the texts, in their bytes."""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

Answer = TypeVar("Answer")


def remembered(most: int, longest: int = 512) -> Callable[[Callable[[str], Answer]], Callable[[str], Answer]]:
    """Decorates a pure function of a text: its last `most` answers are kept, but for texts of over `longest` bytes, or beyond ASCII.

    What comes again is short and plain; other characters would take up to four times the memory.
    """

    def decorate(function: Callable[[str], Answer]) -> Callable[[str], Answer]:
        known = lru_cache(most)(function)
        return lambda text: known(text) if len(text) <= longest and text.isascii() else function(text)

    return decorate
