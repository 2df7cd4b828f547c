"""One process at a time: a lock on a file, which ends with the process that holds it, however it ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError


@contextmanager
def alone(lock: Path, otherwise: str) -> Iterator[None]:
    """Holds the lock for the block. UserError, saying `otherwise`, if another process has it; OSError if the file cannot be made."""
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(otherwise) from None
        yield
