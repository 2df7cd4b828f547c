"""Answers to texts that come again and again: bounded in their number and, since strangers write the texts, in their length."""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

Answer = TypeVar("Answer")


def remembered(most: int, longest: int = 2_048) -> Callable[[Callable[[str], Answer]], Callable[[str], Answer]]:
    """Decorates a pure function of a text: its last `most` answers are kept, but for texts of more than `longest` characters."""

    def decorate(function: Callable[[str], Answer]) -> Callable[[str], Answer]:
        known = lru_cache(most)(function)
        return lambda text: known(text) if len(text) <= longest else function(text)

    return decorate
