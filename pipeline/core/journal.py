"""What a batch of changes was made to, so that the batch can tell what it changed."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Journal(dict[K, V | None]):
    """For each key that was touched, the value it had before the first touch (None: there was none)."""

    def note(self, key: K, now: V | None) -> None:
        if key not in self:
            self[key] = now

    def changes(self, now: Mapping[K, V]) -> Iterator[tuple[K, V | None, V | None]]:
        """Each key whose value is another now, with the value before and the one now (None: there is none)."""
        for key, before in self.items():
            after = now.get(key)
            if after != before:
                yield key, before, after
