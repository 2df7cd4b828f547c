"""Rows as they are written to the changelog: each item is a *block* of the events of many cookies, with texts, in LZ4.

A later block speaks for an event instead of an earlier one. A block may also say of a cookie what its last session was before the events
that are remembered (`bases`); events up to that are forgotten, whichever block has them.
"""

from collections.abc import Iterator
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
    rows, bases = rows.copy(), bases.copy()
    cookies = np.unique(np.concatenate([rows["cookie"], of_bases]))
    texts = _used([rows[name] for name in TEXTS] + [bases[name] for name in SESSION_TEXTS])
    copies = _used([rows["copies"]])
    rows["cookie"] = np.searchsorted(cookies, rows["cookie"])
    for name in TEXTS:
        rows[name] = np.searchsorted(texts, rows[name])
    for name in SESSION_TEXTS:
        bases[name] = np.searchsorted(texts, bases[name])
    rows["copies"] = np.searchsorted(copies, rows["copies"])
    return _Written(
        [names.cookies[cookie] for cookie in cookies.tolist()],
        [names.texts[text] for text in texts.tolist()],
        [names.copies[copy] for copy in copies.tolist()],
        _columns(rows),
        _columns(bases),
        np.searchsorted(cookies, of_bases).astype("<i4").tobytes(),
    )


def _used(columns: list[npt.NDArray[Any]]) -> Ints:
    """The numbers in these columns, and 0."""
    return np.unique(np.concatenate([np.zeros(1, np.int64), *columns]))


def _columns(records: npt.NDArray[np.void]) -> bytes:
    return b"".join(records[name].tobytes() for name in records.dtype.names or ())


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
