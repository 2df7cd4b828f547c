import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import ports


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.create_server((ports.LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


def test_a_chosen_port_is_free_and_new() -> None:
    first = ports.choose(())
    assert ports.is_free(first)
    assert ports.choose({first}) != first


def test_chosen_ports_are_not_taken_by_outgoing_connections() -> None:
    """Else a port that is kept while the servers are down would be lost now and then."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports.CANDIDATES) < max(lowest, 32768)


def test_a_port_in_use_is_not_free(taken: int) -> None:
    assert not ports.is_free(taken)
    assert ports.is_answering(taken)


def test_the_process_on_a_port_is_named(taken: int) -> None:
    assert ports.occupant(taken).startswith(f"process {os.getpid()} (")


def test_a_process_that_cannot_be_seen_is_another_process() -> None:
    assert ports.occupant(ports.choose(())) == "another process"
