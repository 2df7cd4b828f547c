"""The events of all cookies of a partition: rows that grow at their end, each knowing the one before it of the same cookie."""

import secrets

import numpy as np
import numpy.typing as npt

from pipeline.history.shapes import ROW, Flags, Ints, Rows, grown

GONE = -1
"""The cookie of a row that is no more."""
NONE = -1
"""No row."""
_LONG = 256
"""The rows of cookies with more than so many are found by looking at all there are."""


class Table:
    """Rows by number. Cookies are numbered, too: 0, 1, 2 ..."""

    def __init__(self) -> None:
        self._rows = np.zeros(0, ROW)
        self._before = np.zeros(0, np.int32)
        """The row before it of the same cookie."""
        self._blocks = np.zeros(0, np.int32)
        self.count = 0
        self.gone = 0
        """So many of the rows are no more."""
        self._last = np.full(0, NONE, np.int32)
        self._sizes = np.zeros(0, np.int32)
        self._known = _Known()

    @property
    def rows(self) -> Rows:
        return self._rows[: self.count]

    @property
    def blocks(self) -> npt.NDArray[np.int32]:
        """In which block of the changelog each row is (log.py)."""
        return self._blocks[: self.count]

    def room(self, cookies: int) -> None:
        """Makes room for so many cookies."""
        self._last = grown(self._last, cookies, NONE)
        self._sizes = grown(self._sizes, cookies)

    def find(self, rows: Rows) -> Ints:
        """The row that there is of the same event of the same cookie; NONE if there is none."""
        found = self._known.find(rows)
        there = np.flatnonzero(found != NONE)
        same = self._rows[found[there]]
        ours = rows[there]
        found[there[(same["cookie"] != ours["cookie"]) | (same["id"] != ours["id"])]] = NONE
        return found

    def append(self, rows: Rows, block: int) -> Ints:
        """Adds rows of events that are not there; their numbers."""
        begin, count = self.count, len(rows)
        numbers = np.arange(begin, begin + count)
        if not count:
            return numbers
        self._rows = grown(self._rows, begin + count)
        self._before = grown(self._before, begin + count, NONE)
        self._blocks = grown(self._blocks, begin + count)
        self._rows[begin : begin + count] = rows
        self._blocks[begin : begin + count] = block
        self.count += count
        self._known.add(rows, numbers)
        self._link(numbers)
        return numbers

    def of(self, cookies: Ints) -> Ints:
        """All rows of these cookies."""
        long = self._sizes[cookies] > _LONG
        scanned = np.flatnonzero(np.isin(self.rows["cookie"], cookies[long])) if long.any() else np.zeros(0, np.int64)
        found = [scanned]
        at = self._last[cookies[~long]]
        while len(at := at[at != NONE]):
            found.append(at)
            at = self._before[at]
        return np.concatenate(found)

    def remove(self, numbers: Ints) -> None:
        """These rows are no more."""
        if not len(numbers):
            return
        cookies = np.unique(self._rows["cookie"][numbers])
        staying = np.setdiff1d(self.of(cookies), numbers)
        self._rows["cookie"][numbers] = GONE
        self.gone += len(numbers)
        self._last[cookies] = NONE
        self._sizes[cookies] = 0
        self._link(staying)

    def is_there(self) -> Flags:
        """Of each row, whether it still is."""
        there: Flags = self.rows["cookie"] != GONE
        return there

    def compact(self) -> None:
        """Lets the rows go that are no more; all others have new numbers."""
        there = np.flatnonzero(self.is_there())
        blocks, rows = self._blocks[there], self._rows[there]
        self._rows, self._blocks, self.count, self.gone = rows, blocks, len(rows), 0
        self._before = np.full(len(rows), NONE, np.int32)
        self._last[:] = NONE
        self._sizes[:] = 0
        self._known = _Known()
        numbers = np.arange(len(rows))
        self._known.add(rows, numbers)
        self._link(numbers)

    def _link(self, numbers: Ints) -> None:
        """Puts rows behind those that their cookies have."""
        cookies = self._rows["cookie"][numbers]
        order = np.argsort(cookies, kind="stable")
        numbers, cookies = numbers[order], cookies[order]
        is_first = np.diff(cookies, prepend=-1) != 0
        before = np.empty(len(numbers), np.int32)
        before[1:] = numbers[:-1]
        before[is_first] = self._last[cookies[is_first]]
        self._before[numbers] = before
        self._last[cookies] = numbers  # in order: the last one stays
        self._sizes += np.bincount(cookies, minlength=len(self._sizes)).astype(np.int32)


class _Known:
    """Rows by what their event and cookie hash to: sorted runs, the older ones larger, as in a log-structured merge tree.

    Hashes are 64 bits under a secret of the process, so that nobody can make events that collide.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Ints, Ints]] = []
        self._secret = [secrets.randbits(64) | 1 for _ in range(3)]

    def add(self, rows: Rows, numbers: Ints) -> None:
        if not len(rows):
            return
        hashes = self._hashes(rows)
        order = np.argsort(hashes)
        self._runs.append((hashes[order], numbers[order].astype(np.int32)))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            newer, older = self._runs.pop(), self._runs.pop()
            hashes = np.concatenate([older[0], newer[0]])
            order = np.argsort(hashes, kind="stable")
            self._runs.append((hashes[order], np.concatenate([older[1], newer[1]])[order]))

    def find(self, rows: Rows) -> Ints:
        """The newest row with the same hash."""
        hashes = self._hashes(rows)
        found = np.full(len(rows), NONE, np.int64)
        for known, numbers in self._runs:
            places = np.searchsorted(known, hashes, "right") - 1
            there = np.flatnonzero((places >= 0) & (known[places] == hashes))
            found[there] = numbers[places[there]]
        return found

    def _hashes(self, rows: Rows) -> Ints:
        ids = np.ascontiguousarray(rows["id"]).view(np.uint64).reshape(-1, 2)
        first, second, third = (np.uint64(number) for number in self._secret)
        mixed = ids[:, 0] * first ^ (ids[:, 1] + rows["cookie"].astype(np.uint64) * third) * second
        mixed ^= mixed >> np.uint64(29)
        return (mixed * first).view(np.int64)
