"""The columns that the history of cookies is kept in: numpy records, in which a text is a number (words.py) and an id 16 bytes.

Ids are compared as bytes, which is the order of their texts, since all have their dashes at the same places.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.void]
"""An array of ROW."""
Sessions = npt.NDArray[np.void]
"""An array of SESSION."""
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.bytes_]

TEXTS = ("url", "title", "referrer", "hstc", "hssc", "properties")
"""Fields of a page view that are texts."""
ROW = np.dtype(
    [
        ("cookie", "<i4"),
        ("at", "<i8"),
        ("id", "S16"),
        ("is_active", "?"),
        ("starts", "?"),
        *((name, "<i4") for name in TEXTS),
        ("copies", "<i4"),
    ]
)
"""One event of one cookie, as all of its copies say it together: `is_active` if it is activity of this very cookie, `starts` if it is a
page view with `new_browser_session`. A page view that came once, with few properties, is these columns. Of all else `copies` names
the traces of its copies (core/copies.py), and the texts say only what sessions need."""

SESSION = np.dtype(
    [
        ("number", "<i4"),
        ("started_at", "<i8"),
        ("first_event_id", "S16"),
        ("ended_at", "<i8"),
        ("last_event_id", "S16"),
        ("previous_started_at", "<i8"),
        ("activity_count", "<i4"),
        ("page_view_count", "<i4"),
        ("entry_url", "<i4"),
        ("exit_url", "<i4"),
        ("source", "<i4"),
    ]
)
"""`core.sessions.Session`, field by field. Number 0: there is none."""
SESSION_TEXTS = ("entry_url", "exit_url", "source")
NEVER = np.iinfo(np.int64).min
"""A time that is absent."""


def ids_of(texts: Iterable[str]) -> Ids:
    """Event ids as bytes."""
    return np.frombuffer(bytes.fromhex("".join(texts).replace("-", "")), "S16")


def id_texts(ids: Ids) -> list[str]:
    """Bytes as event ids."""
    octets = np.frombuffer(ids.tobytes().hex().encode(), np.uint8).reshape(-1, 32)
    texts = np.insert(octets, (8, 12, 16, 20), ord("-"), axis=1).tobytes().decode()
    return [texts[at : at + 36] for at in range(0, len(texts), 36)]


def grown(array: npt.NDArray[Any], size: int, fill: Any = 0) -> npt.NDArray[Any]:
    """The array with room for so many elements; half as many again, so that it is seldom."""
    if size <= len(array):
        return array
    more = np.full(max(size, len(array) * 3 // 2, 1024), fill, array.dtype)
    more[: len(array)] = array
    return more
