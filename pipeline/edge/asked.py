"""A request's headers, read once."""

from typing import Any


class Told:
    """What the headers say, by their names in lower case; of several with one name the first."""

    __slots__ = ("_values",)

    def __init__(self, scope: Any) -> None:
        self._values: dict[bytes, bytes] = dict(reversed(scope["headers"]))

    def get(self, name: bytes) -> str | None:
        value = self._values.get(name)
        return None if value is None else value.decode("latin-1")

    def text(self, name: bytes) -> str:
        """The same; empty if there is none."""
        return self._values.get(name, b"").decode("latin-1")
