"""`run`: every part on this machine, and the servers too if the settings name none."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline import settings as reading
from pipeline.adapters import clickhouse, topics
from pipeline.app import ROLES
from pipeline.effective import effective
from pipeline.logs import logger
from pipeline.settings import Settings
from pipeline.supervise import Supervisor, workers

log = logger("run")


def run(settings: Settings, count: int) -> int:
    """Runs `count` processes of each part until a signal; returns the exit code. UserError if a server cannot be used."""
    with _servers(settings) as found:
        topics.create_topics(found)
        clickhouse.migrate(found)
        supervisor = Supervisor(workers(ROLES, count, found), prefix_lines=found.log.format == "text")
        return supervisor.run()


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
