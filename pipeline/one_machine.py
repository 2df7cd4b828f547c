"""`run`: every part of every generation on this machine, and the servers too if the settings name none.

Generations come and go while it runs (`replay`): it looks every few seconds which there are.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline import settings as reading
from pipeline.adapters import kafka, topics
from pipeline.alone import alone
from pipeline.app import ROLES
from pipeline.effective import effective
from pipeline.errors import UserError
from pipeline.logs import logger
from pipeline.replay import registry, views
from pipeline.replay.registry import Generation
from pipeline.settings import Settings
from pipeline.supervise import Part, Supervisor, workers

_LOOK_EVERY_S = 2.0

log = logger("run")


def run(settings: Settings, count: int, *, edge: bool = False) -> int:
    """Runs `count` processes of each part, and the collector if asked for, until a signal; returns the exit code.

    UserError if a server or the portals file cannot be used, or another `run` works in the data directory.
    """
    if edge:
        from pipeline.edge import portals

        portals.load(settings.edge.portals_file)  # before anything is started
    with _the_only_run(settings.data_dir), _servers(settings) as found:
        kafka.reach(found)
        following = registry.read(found).following
        edge_parts = _collector(found) if edge else []
        parts = [*_parts(found, count, following), *edge_parts]
        supervisor = Supervisor(parts, prefix_lines=found.log.format == "text")
        ended = threading.Event()
        threading.Thread(target=_follow, args=(found, count, edge_parts, following, supervisor, ended), daemon=True).start()
        try:
            return supervisor.run()
        finally:
            ended.set()


def _collector(settings: Settings) -> list[Part]:
    from pipeline.edge import serve

    return serve.parts(1, settings)


def _parts(settings: Settings, count: int, following: Iterable[Generation]) -> list[Part]:
    """Those of these generations, for which topics and tables are made ready."""
    parts: list[Part] = []
    for generation in following:
        of_generation = registry.settings_of(settings, generation)
        topics.create_topics(of_generation)
        views.migrate(of_generation)
        parts += workers(ROLES, count, of_generation)
    return parts


def _follow(
    settings: Settings, count: int, beside: Sequence[Part], known: Iterable[Generation], supervisor: Supervisor, ended: threading.Event
) -> None:
    """Tells the supervisor when generations have come or gone; the parts `beside` them stay."""
    numbers = [generation.number for generation in known]
    while not ended.wait(_LOOK_EVERY_S):
        try:
            following = registry.read(settings).following
            if numbers != (now := [generation.number for generation in following]):
                supervisor.run_these([*_parts(settings, count, following), *beside])
                numbers = now
        except UserError as error:
            log.warning("cannot see which generations there are", error=str(error))
        except Exception:  # the parts that run are not to suffer from it, and the next look may be better
            log.warning("cannot see which generations there are", exc_info=True)


@contextmanager
def _the_only_run(directory: Path) -> Iterator[None]:
    """UserError if another `run` works in the directory: its processes have the names of ours, and would throw ours out of their groups.

    A directory that cannot be written keeps nobody from working.
    """
    with ExitStack() as held:
        try:
            held.enter_context(
                alone(
                    directory / "run.lock",
                    f"data_dir is {str(directory)!r}: another `run` works there. End it first, or have more processes with "
                    f"`run --workers`; a pipeline of its own needs another PIPELINE_DATA_DIR.",
                )
            )
        except OSError as error:
            log.warning("cannot see whether another `run` works here", error=str(error))
        yield


@contextmanager
def _servers(settings: Settings) -> Iterator[Settings]:
    """Settings that lead to servers: those given, or of embedded ones that run meanwhile."""
    if not names_no_server(settings):
        yield settings
        return
    from infra.servers import embedded

    with embedded(settings.data_dir) as servers:
        log.info(
            "embedded servers started",
            kafka=servers.kafka.bootstrap_servers,
            clickhouse=f"{servers.clickhouse.host}:{servers.clickhouse.port}",
        )
        yield reading.load()


def names_no_server(settings: Settings) -> bool:
    """Whether every address is a default that nobody chose: neither a setting, nor an embedded server that runs."""
    addresses = {"kafka.bootstrap_servers", "clickhouse.host", "clickhouse.port"}
    return all(setting.source == "default" for setting in effective(settings) if setting.name in addresses)
