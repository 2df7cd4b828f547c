"""What processes have used so far: CPU time and peak memory, from Linux's /proc."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Since a process began: peak memory in MB (10^6 bytes), CPU time of all its threads in seconds."""

    peak_mb: float
    cpu_s: float

    def since(self, before: "Usage") -> "Usage":
        """The same peak, and the CPU time since then."""
        return Usage(self.peak_mb, self.cpu_s - before.cpu_s)


def of_workers(parent: int) -> dict[str, Usage]:
    """Of each worker that process `parent` started, by role and instance."""
    return {_name(process): _usage(process) for process in _children(parent)}


def of(pids: Mapping[str, int]) -> dict[str, Usage]:
    """Of each of these processes."""
    return {name: _usage(Path(f"/proc/{pid}")) for name, pid in pids.items()}


def resident(parent: int) -> int:
    """Bytes in memory now, of a process and its children; a page that several share counts once (Linux's Pss).

    Servers that it started for itself are not among them: they have a session of their own.
    """
    size = 0
    for process in (Path(f"/proc/{parent}"), *_children(parent)):
        with suppress(OSError):  # it ended meanwhile
            if os.getsid(int(process.name)) == os.getsid(parent):
                size += int(_field(process / "smaps_rollup", "Pss").removesuffix(" kB")) * 1024
    return size


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


def _usage(process: Path) -> Usage:
    peak_kib = int(_field(process / "status", "VmHWM").removesuffix(" kB"))
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return Usage(peak_kib * 1024 / 1e6, (int(fields[11]) + int(fields[12])) / _TICKS_PER_S)


def _field(status: Path, name: str) -> str:
    for line in status.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    raise OSError(f"{status} has no {name}")
