"""Accepted records on disk while Kafka is away (spec: edge.md, "Accepted means safe"): append-only segments with sums.

    segment = frame*        frame = length, 4 bytes | CRC-32 of the payload, 4 bytes | payload (msgpack of a Record)

A record is safe when `append` has returned: written and fsynced, the directory too when the segment is new. After a crash the
last frame may be torn, which was never acknowledged: it is cut off. A wrong sum before the end is damage by others: the segment
is kept aside as `.damaged`, what stood before is drained, and the log says so.

Each process owns one directory, by a lock; at its start it takes over the segments of directories that nobody owns.
Not safe for use from several threads at once.
"""

import fcntl
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct
from typing import BinaryIO

import msgspec

from pipeline.errors import UserError
from pipeline.logs import logger

SEGMENT_BYTES = 8 << 20
_HEAD = Struct(">II")
_LARGEST = 4 << 20

log = logger("edge")


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One record for Kafka. `topic` is the logical name."""

    topic: str
    key: bytes
    value: bytes


class SpoolFullError(Exception):
    """No room, by our limit or the disk's: the hit cannot be accepted now."""


class Spool:
    """The records of one process that Kafka does not have yet."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        """Takes a directory below `root` that no other process has. UserError if the disk does not let us."""
        try:
            root.mkdir(parents=True, exist_ok=True)
            self.number, self._lock = _claimed(root)
        except OSError as error:
            raise UserError(f"edge.spool below data_dir: cannot use {root}: {error.strerror}. Make it writable.") from None
        self._directory = root / str(self.number)
        self._limit = limit_bytes
        self._current: BinaryIO | None = None
        self._last = max((int(path.stem) for path in self._directory.glob("*.[sd]*") if path.stem.isdigit()), default=0)
        self._take_over(root)
        self.size = sum(path.stat().st_size for path in self.segments())

    @property
    def is_full(self) -> bool:
        """Whether not even a small record has room."""
        return self.size + 4_096 > self._limit

    def append(self, records: Sequence[Record]) -> None:
        """Returns when the records are safe. SpoolFullError if there is no room for all of them; then none counts."""
        frames = b"".join(map(_frame, records))
        if self.size + len(frames) > self._limit:
            raise SpoolFullError
        try:
            segment = self._segment()
        except OSError as error:
            log.error("the spool cannot be opened", error=error.strerror)  # noqa: TRY400 - the disk's failure, or too many files are open
            raise SpoolFullError from None
        start = segment.tell()
        try:
            segment.write(frames)
            segment.flush()
            os.fdatasync(segment.fileno())
        except OSError as error:
            log.error("the spool cannot be written", error=error.strerror)  # noqa: TRY400 - the disk's failure
            self._give_up(segment, start)
            raise SpoolFullError from None
        self.size += len(frames)

    def segments(self) -> list[Path]:
        """Oldest first."""
        return sorted(self._directory.glob("*.spool"))

    def oldest(self) -> Path | None:
        """The segment to drain next; nothing is appended to it any more."""
        found = self.segments()
        if len(found) == 1:
            self._seal()
        return found[0] if found else None

    def remove(self, segment: Path) -> None:
        """Kafka has all of it."""
        self.size -= segment.stat().st_size
        segment.unlink()

    def set_aside(self, segment: Path) -> None:
        """Keeps a damaged segment for people to look at."""
        self.size -= segment.stat().st_size
        segment.rename(segment.with_suffix(".damaged"))

    def close(self) -> None:
        self._seal()
        self._lock.close()

    def _segment(self) -> BinaryIO:
        if self._current is not None and self._current.tell() >= SEGMENT_BYTES:
            self._seal()
        if self._current is None:
            self._current = self._new_name().open("xb")
            _sync_directory(self._directory)
        return self._current

    def _new_name(self) -> Path:
        """A name that no segment of this directory has had in this life, and none has now."""
        self._last += 1
        return self._directory / f"{self._last:012d}.spool"

    def _seal(self) -> None:
        if self._current is not None:
            self._current.close()
            self._current = None

    def _give_up(self, segment: BinaryIO, start: int) -> None:
        """Leaves no half of a refused batch behind; what cannot be cut off now is drained as if it were accepted."""
        self._current = None
        try:
            os.ftruncate(segment.fileno(), start)
            segment.close()
        except OSError:
            pass

    def _take_over(self, root: Path) -> None:
        """Segments of directories whose owner is gone become ours, in new names."""
        for directory in sorted(root.iterdir()):
            if directory == self._directory or (lock := _locked(directory)) is None:
                continue
            for segment in sorted(directory.glob("*.spool")):
                segment.rename(self._new_name())
            _sync_directory(self._directory)
            lock.close()


class DamageError(Exception):
    """A sum is wrong before the end of a segment."""


def read(segment: Path) -> Iterator[Record]:
    """The records of a segment; a torn end is passed over. DamageError when the bytes are not what was written."""
    data = memoryview(segment.read_bytes())
    at = 0
    while at + _HEAD.size <= len(data):
        length, expected = _HEAD.unpack_from(data, at)
        payload = data[at + _HEAD.size : at + _HEAD.size + length]
        whole = 0 < length <= _LARGEST and len(payload) == length and zlib.crc32(payload) == expected
        if not whole:
            if _is_torn(data, at, length):
                return
            raise DamageError
        yield msgspec.msgpack.decode(payload, type=Record)
        at += _HEAD.size + length


def _is_torn(data: memoryview, at: int, length: int) -> bool:
    """Whether an unreadable frame may be the last write of a process that died: it reaches the end, or is blank to the end.

    Not if whole frames follow somewhere: then it is its length that was damaged.
    """
    if not any(data[at:]):
        return True
    return at + _HEAD.size + length >= len(data) and not _has_frame(data, at + 1)


def _has_frame(data: memoryview, at: int) -> bool:
    """Whether there is a whole frame anywhere from here on; only asked when something is wrong, so it may take its time."""
    for start in range(at, len(data) - _HEAD.size):
        length, expected = _HEAD.unpack_from(data, start)
        if 0 < length <= len(data) - start - _HEAD.size and zlib.crc32(data[start + _HEAD.size : start + _HEAD.size + length]) == expected:
            return True
    return False


def _frame(record: Record) -> bytes:
    payload = msgspec.msgpack.encode(record)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _claimed(root: Path) -> tuple[int, BinaryIO]:
    """The first number whose directory is free, and the lock on it."""
    number = 0
    while True:
        directory = root / str(number)
        directory.mkdir(mode=0o700, exist_ok=True)
        if (lock := _locked(directory)) is not None:
            return number, lock
        number += 1


def _locked(directory: Path) -> BinaryIO | None:
    """A lock on a directory, until it is closed or its process ends; None if another process has it."""
    lock = (directory / "lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
