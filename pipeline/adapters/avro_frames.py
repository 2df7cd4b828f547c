"""Columns of polars as Avro records of a flat schema (Avro 1.12 specification, "Binary encoding"), without a Python object for each value.

polars writes a container file, fast, but in a schema of its own: every field is a union with null. So the bytes that say of a required
field that it is there are taken out again; where they stand, and where each record ends, follows from the sizes of the values.
"""

import io
from collections.abc import Sequence
from itertools import pairwise

import fastavro
import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.adapters.avro_columns import Field

Sizes = npt.NDArray[np.int64]

_VARINT_LIMITS = np.array([1 << 7 * size for size in range(1, 10)], np.uint64)


def encoded(records: pl.DataFrame, fields: Sequence[Field]) -> list[bytes]:
    """Each record as Avro; the columns are the fields, texts and whole numbers, in their order. ValueError if a required one is null."""
    if records.is_empty():
        return []
    octets = np.frombuffer(_written(records), np.uint8)
    is_kept = np.ones(len(octets), np.bool_)
    marks: list[Sizes] = []
    at = np.zeros(records.height, np.int64)
    for field, column in zip(fields, records, strict=True):
        if not field.optional:
            marks.append(at)
            if column.null_count():
                raise ValueError(f"{field.name} is required, and absent in {column.null_count()} of {records.height} records")
        at = at + 1 + _sizes(column)
    ends = np.cumsum(at)
    if ends[-1] != len(octets):
        raise RuntimeError("polars writes Avro in another way than this version knows")
    for mark in marks:
        is_kept[ends - at + mark] = False
    kept = octets[is_kept].tobytes()
    return [kept[begin:end] for begin, end in pairwise([0, *(ends - len(marks) * np.arange(1, len(ends) + 1)).tolist()])]


def _written(records: pl.DataFrame) -> bytes:
    """The records as polars writes them, one after the other."""
    file = io.BytesIO()
    records.write_avro(file)
    file.seek(0)
    return b"".join(block.bytes_.read() for block in fastavro.block_reader(file))  # type: ignore[attr-defined]  # its types lack it


def _sizes(column: pl.Series) -> Sizes:
    """How many bytes each value takes, 0 if it is null."""
    if column.dtype == pl.String:
        texts = column.str.len_bytes().fill_null(0).to_numpy().astype(np.int64)
        sizes = texts + _varints(texts.astype(np.uint64) << np.uint64(1))
    else:
        numbers = column.fill_null(0).to_numpy()
        sizes = _varints((numbers << 1 ^ numbers >> 63).astype(np.uint64))
    return np.where(column.is_null().to_numpy(), 0, sizes) if column.null_count() else sizes


def _varints(numbers: npt.NDArray[np.uint64]) -> Sizes:
    return np.searchsorted(_VARINT_LIMITS, numbers, "right") + 1
