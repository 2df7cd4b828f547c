"""Which cookie came back first with a click: the first return wins (spec: edge.md, "Email links").

One small database for all processes of a machine, since the second return may come to another process. It outlives a crash of
a process; after a crash of the machine a click of the last five minutes might be taken by a second browser.
"""

import sqlite3
from pathlib import Path

from pipeline.core.events import EventId, Millis, Utk
from pipeline.edge.core.links import CLICK_LIFE

_TABLE = "CREATE TABLE IF NOT EXISTS clicks (id TEXT PRIMARY KEY, utk TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID"


class Clicks:
    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute(_TABLE)

    def is_first(self, click: EventId, utk: Utk, now: Millis) -> bool:
        """Whether no other cookie has come back with this click; the same one may, as often as its hit is sent again."""
        self._database.execute("DELETE FROM clicks WHERE at < ?", (now - 2 * CLICK_LIFE,))
        self._database.execute("INSERT OR IGNORE INTO clicks VALUES (?, ?, ?)", (click, utk, now))
        (owner,) = self._database.execute("SELECT utk FROM clicks WHERE id = ?", (click,)).fetchone()
        return bool(owner == utk)

    def close(self) -> None:
        self._database.close()
