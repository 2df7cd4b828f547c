"""Rows on disk between two stages, divided into buckets by their key, so that whoever reads a bucket has all that concerns its keys.

A writer has a directory of its own with one file per bucket; a file is a sequence of blocks: length (8 bytes), Arrow IPC stream in LZ4.
"""

import io
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

_LENGTH_BYTES = 8
_ROWS_AT_ONCE = 75_000


class Spill:
    """What one unit of work writes; what an earlier attempt has left is gone. `key` is the column that decides on the bucket."""

    def __init__(self, directory: Path, key: str, buckets: int) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self._directory = directory
        self._bucket = (pl.col(key).hash() % buckets).alias("bucket")
        self._waiting: list[pl.DataFrame] = []

    def write(self, rows: pl.DataFrame) -> None:
        """On disk once there are many: small blocks cost more for each row, here and where they are read."""
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        rows = pl.concat(self._waiting)
        self._waiting = []
        for (bucket,), part in rows.with_columns(self._bucket).partition_by("bucket", as_dict=True, include_key=False).items():
            block = io.BytesIO()
            part.write_ipc_stream(block, compression="lz4")
            with _file(self._directory, bucket).open("ab") as file:
                file.write(len(block.getbuffer()).to_bytes(_LENGTH_BYTES))
                file.write(block.getbuffer())

    def close(self) -> None:
        """All is on disk, whatever happens to the machine: whoever goes on after this unit reads it and no longer the log."""
        if self._waiting:
            self._flush()
        for file in self._directory.iterdir():
            _to_disk(file)
        _to_disk(self._directory)
        _to_disk(self._directory.parent)


def _to_disk(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def read(directories: Iterable[Path], bucket: int) -> pl.DataFrame | None:
    """All rows of a bucket; None if there are none."""
    blocks = [block for directory in directories for block in _blocks(_file(directory, bucket))]
    return pl.concat(blocks, rechunk=True) if blocks else None


def _blocks(path: Path) -> Iterator[pl.DataFrame]:
    if not path.exists():
        return
    with path.open("rb") as file:
        while length := file.read(_LENGTH_BYTES):
            yield pl.read_ipc_stream(io.BytesIO(file.read(int.from_bytes(length))))


def _file(directory: Path, bucket: int) -> Path:
    return directory / f"{bucket}.blocks"
