"""Loopback ports: chosen once, then kept; and who sits on one that is taken."""

import random
import re
import socket
from collections.abc import Collection
from pathlib import Path

LOOPBACK = "127.0.0.1"
CANDIDATES = range(15000, 30000)
"""Below the range from which Linux takes the local ports of outgoing connections (32768 and up): a kept port stays free."""
LISTENING = "0A"


def choose(taken: Collection[int]) -> int:
    """A free port that is not among `taken`."""
    while True:
        port = random.choice(CANDIDATES)
        if port not in taken and is_free(port):
            return port


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def is_answering(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def occupant(port: int) -> str:
    """`process 123 (python -m http.server 9000)`, or "another process" where it cannot be seen (other users' processes)."""
    inodes = _listening_inodes(port)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(link.readlink().name in inodes for link in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {process.name} ({command[:100]})"
        except OSError:
            continue  # not ours to look at, or gone in the meantime
    return "another process"


def _listening_inodes(port: int) -> set[str]:
    found: set[str] = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            rows = [row.split() for row in table.read_text().splitlines()[1:]]
        except OSError:
            continue
        found.update(f"socket:[{row[9]}]" for row in rows if row[3] == LISTENING and re.search(f":{port:04X}$", row[1]))
    return found
