"""The blocks that a history is written in: which there are, which become one, and which are written anew.

A batch is a block. Small blocks of about the same size become one when they are many, as in a log-structured merge tree, so the
changelog has few small ones however small the batches are; a block of which most is forgotten is written anew without it.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from pipeline.history import blocks
from pipeline.history.blocks import Block, Names
from pipeline.history.shapes import Ints, Sessions, grown
from pipeline.history.table import Table

MERGED = 8
"""So many blocks of about the same size become one, if they are small ..."""
SMALL = blocks.BLOCK_ROWS // MERGED
"""... which is fewer rows than this."""
_ITEM = b"block|"


class Log:
    """The blocks in the changelog, by number; from `block` on there are none yet."""

    def __init__(self, block: int) -> None:
        self._sizes: dict[int, int] = {}
        """How many rows and bases each was written with."""
        self._of_bases = np.zeros(0, np.int32)
        """The block that says the base of each cookie; 0: none."""
        self.next_block = block

    def read(self, items: Mapping[bytes, bytes]) -> Iterator[tuple[int, Block]]:
        """The blocks that these items are, in the order in which they were written. ValueError if they are something else."""
        for number, value in sorted((_number(key), value) for key, value in items.items()):
            block = blocks.decoded(value)
            self._sizes[number] = len(block.rows) + len(block.bases)
            self.next_block = number + 1
            yield number, block

    def has_bases(self, cookies: Ints, number: int) -> None:
        """A block says the bases of these cookies."""
        if len(cookies):
            self._of_bases = grown(self._of_bases, int(cookies.max()) + 1)
            self._of_bases[cookies] = number

    def write(self, table: Table, rows: Ints, base: Sessions, of_bases: Ints, names: Names, *, anew: bool) -> dict[bytes, bytes | None]:
        """Items for new rows of the table, and for the bases of some cookies; with what becomes one with them. `anew`: look for blocks of
        which most is gone.
        """
        size = len(rows) + len(of_bases)
        if not size:
            return {}
        replaced = self._to_merge(size) | (self._mostly_gone(table) if anew else set())
        items: dict[bytes, bytes | None] = {_item(number): None for number in sorted(replaced)}
        if replaced:
            members = np.array(sorted(replaced))
            rows = np.union1d(rows, np.flatnonzero(np.isin(table.blocks, members) & table.is_there()))
            of_bases = np.union1d(of_bases, np.flatnonzero(np.isin(self._of_bases, members)))
            for number in replaced:
                del self._sizes[number]
        for piece in blocks.encoded(table.rows[rows], base[of_bases], of_bases, names):
            items[_item(self.next_block)] = piece.value
            table.blocks[rows[: piece.rows]] = self.next_block
            self.has_bases(of_bases[: piece.bases], self.next_block)
            self._sizes[self.next_block] = piece.rows + piece.bases
            self.next_block += 1
            rows, of_bases = rows[piece.rows :], of_bases[piece.bases :]
        return items

    def _to_merge(self, size: int) -> set[int]:
        """Blocks that become one with a new one of this size."""
        merged: set[int] = set()
        while size < SMALL:
            peers = {n for n, rows in self._sizes.items() if n not in merged and rows < SMALL and _tier(rows) <= _tier(size)}
            if len(peers) < MERGED - 1:
                break
            merged |= peers
            size += sum(self._sizes[number] for number in peers)
        return merged

    def _mostly_gone(self, table: Table) -> set[int]:
        there = np.bincount(table.blocks[table.is_there()], minlength=self.next_block)
        there += np.bincount(self._of_bases, minlength=self.next_block)
        return {number for number, size in self._sizes.items() if there[number] * 2 < size}


def _tier(size: int) -> int:
    return size.bit_length() // 3


def _item(number: int) -> bytes:
    return _ITEM + str(number).encode()


def _number(item: bytes) -> int:
    if not item.startswith(_ITEM):
        raise ValueError("the state is in another layout")
    return int(item.removeprefix(_ITEM))
