"""Peak memory of processes, from Linux's /proc."""

from collections.abc import Iterator
from pathlib import Path


def peaks(parent: int) -> dict[str, float]:
    """Peak memory in MB (10^6 bytes) of each worker that process `parent` started, by role and instance."""
    return {_name(process): _peak_kib(process) * 1024 / 1e6 for process in _children(parent)}


def _children(parent: int) -> Iterator[Path]:
    for status in sorted(Path("/proc").glob("[0-9]*/status"), key=lambda path: int(path.parent.name)):
        try:
            if _field(status, "PPid") == str(parent):
                yield status.parent
        except OSError:  # it ended meanwhile
            continue


def _name(process: Path) -> str:
    """`... worker sessionize --instance 0 ...` -> `sessionize-0`."""
    words = (process / "cmdline").read_text().split("\0")
    if "worker" not in words:
        return words[0]
    return f"{words[words.index('worker') + 1]}-{words[words.index('--instance') + 1]}"


def _peak_kib(process: Path) -> int:
    return int(_field(process / "status", "VmHWM").removesuffix(" kB"))


def _field(status: Path, name: str) -> str:
    for line in status.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    raise OSError(f"{status} has no {name}")
