"""Texts by number: each text of a partition's history is kept once, and equal texts have equal numbers.

Only live memory has numbers; whatever leaves the process has texts.
"""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from pipeline.core.sessions import advertised, host
from pipeline.history.shapes import Ints, grown

_UNKNOWN = -1


class Words:
    """The texts of one partition. Number 0 is no text."""

    def __init__(self) -> None:
        self.texts: list[str | None] = [None]
        """By number."""
        self._numbers = _Numbers(self.texts)
        self._advertised = _Derived(advertised)
        self._hosts = _Derived(host)

    def number(self, text: str | None) -> int:
        return self._numbers[text]

    def numbers(self, texts: Sequence[str | None] | pl.Series) -> Ints:
        if isinstance(texts, pl.Series):
            if texts.null_count() == len(texts):
                return np.zeros(len(texts), np.int64)
            texts = texts.to_list()
        return np.fromiter(map(self._numbers.__getitem__, texts), np.int64, len(texts))

    def sources(self, urls: Ints, referrers: Ints) -> Ints:
        """The traffic sources of page views, 0 where it is unknown; by numbers, as `core.sessions.traffic_source` does it by texts."""
        origins = self._hosts.of(referrers, self)
        elsewhere = np.where(origins != self._hosts.of(urls, self), origins, 0)
        advertised = self._advertised.of(urls, self)
        return np.where(advertised > 0, advertised, elsewhere)


class _Numbers(dict[str | None, int]):
    """The number of a text; a new text gets one."""

    def __init__(self, texts: list[str | None]) -> None:
        super().__init__({None: 0})
        self._texts = texts

    def __missing__(self, text: str) -> int:
        self._texts.append(text)
        self[text] = number = len(self._texts) - 1
        return number


class _Derived:
    """What a function makes of texts, by number: it is asked once for each."""

    def __init__(self, function: Callable[[str], str | None]) -> None:
        self._function = function
        self._found = np.zeros(1, np.int64)

    def of(self, numbers: Ints, words: Words) -> Ints:
        self._found = grown(self._found, len(words.texts), _UNKNOWN)
        found = self._found[numbers]
        unknown = found == _UNKNOWN
        if unknown.any():
            for number in np.unique(numbers[unknown]).tolist():
                self._found[number] = words.number(self._function(words.texts[number] or ""))
            found = self._found[numbers]
        return found
