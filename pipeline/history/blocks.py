"""Rows as they are written to the changelog: each item is a *block* of the events of many cookies, with texts, in LZ4.

A later block speaks for an event instead of an earlier one. A block may also say of a cookie what its last session was before the events
that are remembered (`bases`); events up to that are forgotten, whichever block has them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import lz4.block
import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.history.shapes import ROW, SESSION, SESSION_TEXTS, TEXTS, Ints, Rows, Sessions

BLOCK_ROWS = 4_096
BLOCK_BYTES = 250_000
"""Larger blocks are cut in two, unless they are of one event; Kafka takes a megabyte."""


class Block(NamedTuple):
    """Rows and bases whose numbers of cookies, texts and copies are places in the lists beside them."""

    cookies: list[str]
    texts: list[str | None]
    copies: list[bytes]
    rows: Rows
    bases: Sessions
    of_bases: Ints
    """The cookies of `bases`."""


class Names(NamedTuple):
    """What numbers stand for."""

    cookies: list[str]
    texts: list[str | None]
    copies: list[bytes]


class _Written(msgspec.Struct, array_like=True):
    """A block as msgpack: of each column its bytes, little-endian, one after the other."""

    cookies: list[str]
    texts: list[str | None]
    copies: list[bytes]
    rows: bytes
    bases: bytes
    of_bases: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Written).decode


class Piece(NamedTuple):
    """The next `rows` of the rows, and the next `bases`, as one block."""

    value: bytes
    rows: int
    bases: int


def encoded(rows: Rows, bases: Sessions, of_bases: Ints, names: Names) -> Iterator[Piece]:
    """Rows and bases as blocks; in several pieces if they are many."""
    if len(rows) <= BLOCK_ROWS and len(bases) <= BLOCK_ROWS:
        block = lz4.block.compress(_encode(_written(rows, bases, of_bases, names)))
        if len(block) <= BLOCK_BYTES or len(rows) + len(bases) <= 1:
            yield Piece(block, len(rows), len(bases))
            return
    row, base = len(rows) // 2, (len(bases) + 1) // 2
    yield from encoded(rows[:row], bases[:base], of_bases[:base], names)
    yield from encoded(rows[row:], bases[base:], of_bases[base:], names)


def decoded(value: bytes) -> Block:
    """A block that was written. ValueError, or msgspec's, if it was not."""
    written = _decode(lz4.block.decompress(value))
    of_bases = np.frombuffer(written.of_bases, "<i4").astype(np.int64)
    return Block(written.cookies, written.texts, written.copies, _rows(written.rows, ROW), _rows(written.bases, SESSION), of_bases)


def _written(rows: Rows, bases: Sessions, of_bases: Ints, names: Names) -> _Written:
    cookies = _Used([rows["cookie"], of_bases], len(names.cookies))
    texts = _Used([rows[name] for name in TEXTS] + [bases[name] for name in SESSION_TEXTS], len(names.texts), also=0)
    copies = _Used([rows["copies"]], len(names.copies), also=0)
    return _Written(
        [names.cookies[cookie] for cookie in cookies.numbers],
        [names.texts[text] for text in texts.numbers],
        [names.copies[copy] for copy in copies.numbers],
        _columns(rows, {"cookie": cookies, "copies": copies} | dict.fromkeys(TEXTS, texts)),
        _columns(bases, dict.fromkeys(SESSION_TEXTS, texts)),
        cookies.places(of_bases),
    )


class _Used:
    """Which numbers, of so many that there are, stand in some columns: in their order. `also` is among them in any case."""

    def __init__(self, columns: Sequence[npt.NDArray[Any]], there_are: int, also: int | None = None) -> None:
        is_used = np.zeros(there_are, np.bool_)
        for column in columns:
            is_used[column] = True
        if also is not None:
            is_used[also] = True
        self.numbers: list[int] = np.flatnonzero(is_used).tolist()
        self._places = np.cumsum(is_used, dtype=np.int32) - np.int32(1)

    def places(self, column: npt.NDArray[Any]) -> bytes:
        """Where the numbers of a column are among those used."""
        places: Ints = self._places[column]
        return places.astype("<i4").tobytes()


def _columns(records: npt.NDArray[np.void], used: Mapping[str, _Used]) -> bytes:
    names = records.dtype.names or ()
    return b"".join(used[name].places(records[name]) if name in used else records[name].tobytes() for name in names)


def _rows(columns: bytes, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    count, rest = divmod(len(columns), dtype.itemsize)
    if rest:
        raise ValueError("the columns of a block have different lengths")
    records = np.zeros(count, dtype)
    at = 0
    for name in dtype.names or ():
        column = dtype[name]
        records[name] = np.frombuffer(columns, column, count, at)
        at += count * column.itemsize
    return records
