"""Columns of polars as a block of ClickHouse's native protocol, without a Python object for each value.

The driver takes lists; making these and writing them value by value is most of what an INSERT of events costs us. Here a column is
written as a whole: numbers as they lie in memory, texts joined by polars with room before each for its size. A size is an unsigned
varint, of which ClickHouse also takes a longer form than need be: so all sizes of a column are equally long.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from clickhouse_driver.block import BlockInfo
from clickhouse_driver.columns.service import write_column
from clickhouse_driver.connection import Connection
from clickhouse_driver.defines import DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION
from clickhouse_driver.protocol import ClientPacketTypes
from clickhouse_driver.varint import write_varint
from clickhouse_driver.writer import write_binary_str, write_binary_uint8

Column = pl.Series | Sequence[Any]
"""A column of polars, whose nulls are what its type has for absent (an empty text, 0) unless it is nullable; or values for the driver."""

_NUMBERS = {"UInt8": "<u1", "UInt16": "<u2", "UInt32": "<u4", "UInt64": "<u8", "Int64": "<i8"}
_SIZE_BITS = 7


def send(connection: Connection, columns_with_types: Sequence[tuple[str, str]], columns: Sequence[Column]) -> None:
    """One block, as `connection.send_data` sends the driver's own. ValueError if the columns are not equally long."""
    rows = {len(column) for column in columns}
    if len(rows) != 1 or len(columns) != len(columns_with_types):
        raise ValueError(f"a block of {len(columns_with_types)} columns: given are {len(columns)}, of {sorted(rows)} rows")
    write_varint(ClientPacketTypes.DATA, connection.fout)
    write_binary_str("", connection.fout)
    stream = connection.block_out
    BlockInfo().write(stream.fout)
    write_varint(len(columns), stream.fout)
    write_varint(rows.pop(), stream.fout)
    for (name, type_), column in zip(columns_with_types, columns, strict=True):
        write_binary_str(name, stream.fout)
        write_binary_str(type_, stream.fout)
        if connection.server_info.used_revision >= DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION:
            write_binary_uint8(0, stream.fout)
        if isinstance(column, pl.Series) and (pieces := encoded(column, type_)) is not None:
            for octets in pieces:
                stream.fout.write(octets)  # of anything but `bytes` the driver's writer would take what lies beside it in memory
        else:
            values = column.to_list() if isinstance(column, pl.Series) else column
            write_column(connection.context, name, type_, values, stream.fout)
    stream.finalize()


def encoded(column: pl.Series, type_: str) -> list[bytes] | None:
    """A column's bytes in the native format, in pieces; None if this type is the driver's business."""
    if type_.startswith("Nullable("):
        values = encoded(column, type_.removeprefix("Nullable(").removesuffix(")"))
        return None if values is None else [column.is_null().cast(pl.UInt8).to_numpy().tobytes(), *values]
    if type_ == "String":
        return _texts(column.fill_null("")) if len(column) else []
    if type_ in _NUMBERS:
        numbers = column.cast(pl.UInt8) if column.dtype == pl.Boolean else column
        return [numbers.fill_null(0).to_numpy().astype(_NUMBERS[type_], copy=False).tobytes()]
    return None


def _texts(column: pl.Series) -> list[bytes]:
    """The size of the first text, and all else: with the sizes of the others before them, where polars has left room."""
    sizes = column.str.len_bytes().to_numpy().astype(np.int64)
    width = max(-(-int(sizes.max()).bit_length() // _SIZE_BITS), 1)
    octets = bytearray(column.str.join("\0" * width).cast(pl.Binary).item())
    places = np.frombuffer(octets, np.uint8)
    between = np.cumsum(sizes[:-1] + width) - width
    first = bytearray(width)
    for place in range(width):
        more = 0x80 if place < width - 1 else 0
        written = (sizes >> _SIZE_BITS * place & 0x7F | more).astype(np.uint8)
        first[place] = written[0]
        places[between + place] = written[1:]
    return [bytes(first), bytes(octets)]
