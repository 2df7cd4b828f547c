"""`python -m pipeline edge`: the collector as one process, or several that share its port.

Each process has a producer, a part of the spool and a metrics port of its own; the kernel deals connections out to them.
"""

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import uvicorn

from pipeline import garbage
from pipeline.adapters import kafka
from pipeline.adapters.topics import create_topics
from pipeline.edge import metrics, portals
from pipeline.edge.clicks import Clicks
from pipeline.edge.collector import Collector
from pipeline.edge.connections import Connection
from pipeline.edge.core.addresses import Network
from pipeline.edge.delivery import Delivery
from pipeline.edge.short_way import ShortWay
from pipeline.edge.spool import Spool
from pipeline.errors import UsageError, UserError
from pipeline.logs import logger
from pipeline.settings import Settings
from pipeline.supervise import Part, Supervisor

_BACKLOG = 4_096
_UNREAD_MS = 20_000
"""How long a client may take nothing of what is sent to it; then the kernel ends the connection."""

PART = "edge"

log = logger(PART)


def serve(settings: Settings, processes: int) -> int:
    """Runs the collector until a signal; SIGHUP reads the portals file again. The exit code."""
    portals.load(settings.edge.portals_file)  # says what is wrong once, not in every process
    if processes == 1:
        return _process(settings)
    return Supervisor(parts(processes, settings), prefix_lines=settings.log.format == "text", handed_on=(signal.SIGHUP,)).run()


def parts(processes: int, settings: Settings) -> list[Part]:
    """What a supervisor starts: edge-0, edge-1 ...; each knows no more secrets than it needs."""
    command = (sys.executable, "-m", "pipeline", "edge", "--processes", "1", "--parent", str(os.getpid()))
    environment = settings.acting_as(PART).environment()
    return [Part(f"edge-{number}", command, environment) for number in range(processes)]


def _process(settings: Settings) -> int:
    _allow_many_connections()
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every odd byte in somebody's form
    try:
        create_topics(settings, PART)
    except kafka.AwayError as error:
        log.warning("Kafka is away: what is accepted waits in the spool", error=str(error))
    return uvicorn_run(settings)


def uvicorn_run(settings: Settings) -> int:
    """One process's loop, from the listening socket to the last answer."""
    with _listening(settings) as listening:
        directory = _private(settings.data_dir / "edge")
        collector = Collector(
            portals.load(settings.edge.portals_file),
            Delivery(settings, Spool(directory / "spool", settings.edge.spool_bytes)),
            Clicks(directory / "clicks.sqlite"),
            trusted_proxies(settings),
        )
        import uvloop

        garbage.what_is_there_stays()  # a whole look takes 40 ms, and would hold up answers
        uvloop.run(_run(settings, collector, listening))
    return 0


def _private(directory: Path) -> Path:
    """The directory, made if it is missing, for us alone: the spool and the clicks are personal. UserError if it cannot be."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data_dir: cannot make {directory}: {error.strerror}. Make it writable, or set another data_dir.") from None
    return directory


async def _run(settings: Settings, collector: Collector, listening: socket.socket) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            collector.app(),
            http=partial(Connection, ShortWay(collector).take),  # type: ignore[arg-type]  # it is only called
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # addresses and urls are nobody's business
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=8,
        )
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn, when it has stopped, raises the signal again for whoever was there before
        signal.signal(number, lambda *_: None)
    collector.delivery.start()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, _reload, collector, settings.edge.portals_file)
    metrics_port = _serve_metrics(settings, collector.delivery)
    log.info("listening", host=settings.edge.host, port=listening.getsockname()[1], metrics=metrics_port, portals=len(collector.portals))
    try:
        await server.serve(sockets=[listening])
    finally:
        await collector.delivery.stop()
        collector.clicks.close()


def _reload(collector: Collector, path: Path) -> None:
    """New portals, or the old ones and a word about what is wrong with the new."""
    try:
        collector.portals = portals.load(path)
    except UsageError as error:
        log.error("the portals file is wrong: the portals stay as they were", error=str(error))  # noqa: TRY400 - the user's mistake
    else:
        log.info("portals read again", portals=len(collector.portals))


def trusted_proxies(settings: Settings) -> Sequence[Network]:
    stated = [text.strip() for text in settings.edge.trusted_proxies.split(",") if text.strip()]
    try:
        return [ip_network(text, strict=False) for text in stated]
    except ValueError as error:
        raise UsageError(f"setting edge.trusted_proxies = {settings.edge.trusted_proxies!r}: {error}") from None


def _serve_metrics(settings: Settings, delivery: Delivery) -> int | None:
    if settings.edge.metrics_port == 0:
        return None
    port = settings.edge.metrics_port + delivery.spool.number
    try:
        metrics.serve(settings.edge.host, port, delivery)
    except OSError as error:
        raise UserError(
            f"edge.metrics_port: cannot listen on {settings.edge.host}:{port}: {error.strerror}. Choose another, or 0."
        ) from None
    return port


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """A socket that processes of this user share. UserError if the address is not to be had."""
    host, port = settings.edge.host, settings.edge.port
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)  # its connections inherit it
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise UserError(f"edge.host and edge.port: cannot listen on {host}:{port}: {error.strerror}. Choose another port.") from None
    with made:
        yield made


def _allow_many_connections() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
