"""What readers see, of whichever generation is live: views in the readers' database that follow a pointer.

Until the first switch these are the views of the migrations, which read the first generation's tables beside them. Then each
generation's own views are in a database of its own (`timelines_g1`, `timelines_g2` ...), and each public one is

    SELECT ... FROM timelines_g1.contacts WHERE (the live generation) = 1
    UNION ALL
    SELECT ... FROM timelines_g2.contacts WHERE (the live generation) = 2

The pointer is a scalar subquery: ClickHouse computes it once, before it plans a query, and reads nothing of a branch whose condition is
constantly false. So a switch is one INSERT, and every query sees one generation, from its beginning to its end.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from clickhouse_driver import Client

from pipeline.adapters import clickhouse
from pipeline.adapters.clickhouse import identifier
from pipeline.replay import registry
from pipeline.replay.registry import LIVE, State
from pipeline.settings import Settings

_CALLED = "owned_events_of"
"""The one view that others call, and with parameters: such a name would be looked up in the reader's database."""
_CREATE = re.compile(r"CREATE VIEW (?:`[^`]*`|\w+)\.(?:`[^`]*`|\w+) ")
_CALL = re.compile(rf"(?<![\w.`])(?:(?:`[^`]*`|\w+)\.)?{_CALLED}\(")
_PARAMETER = re.compile(r"\{(\w+):(\w+)\}")


class View(NamedTuple):
    name: str
    definition: str
    comment: str

    @property
    def parameters(self) -> dict[str, str]:
        """Names and types."""
        return dict(_PARAMETER.findall(self.definition))

    @property
    def is_pointer(self) -> bool:
        return "generation_switches" in self.definition


def database_of(settings: Settings, number: int) -> str:
    """The database that has a generation's own views; for all but the first it has its tables too."""
    return settings.of_generation(number).database if number > 1 else f"{settings.clickhouse.database}_g1"


def migrate(settings: Settings) -> list[str]:
    """Brings a generation's database up to date and, with it, what readers see; the files that were applied. As `clickhouse.migrate`."""
    generation = registry.read(settings).of(settings.generation)
    applied = clickhouse.migrate(settings)
    if settings.generation > 1 or not is_installed(settings):
        clickhouse.amid_races(settings, lambda: _own(clickhouse.server(settings), settings.database, settings.database))
    if applied and generation.state is State.FOLLOWING and is_installed(settings):
        for other in registry.read(settings).following:
            clickhouse.migrate(settings.of_generation(other.number))
        install(settings)
    return applied


def install(settings: Settings) -> None:
    """Makes the public views follow the pointer, among the generations that follow the raw topics. May be done again."""
    clickhouse.amid_races(settings, lambda: _install(settings))


def prepare(settings: Settings, numbers: Iterable[int]) -> None:
    """Has these generations, whose tables exist, have their own views where `database_of` says. Changes nothing for readers."""
    client = clickhouse.server(settings)
    for number in numbers:
        own = database_of(settings, number)
        _own(client, settings.clickhouse.database if number == 1 else own, own)


def _install(settings: Settings) -> None:
    numbers = [generation.number for generation in registry.read(settings).following]
    client = clickhouse.server(settings)
    public = settings.clickhouse.database
    prepare(settings, numbers)
    for name, view in _views(client, database_of(settings, numbers[-1])).items():
        client.execute(_pointer(client, settings, view, numbers, identifier(public) + "." + identifier(name)))


def is_installed(settings: Settings) -> bool:
    """Whether the public views follow the pointer."""
    return any(view.is_pointer for view in _views(clickhouse.server(settings), settings.clickhouse.database).values())


def names(client: Client, database: str) -> set[str]:
    """Of the views that follow the pointer."""
    return {name for name, view in _views(client, database).items() if view.is_pointer}


def _own(client: Client, source: str, target: str) -> None:
    """A generation's own views, from those that the migrations made in `source`, with the names in them complete.

    A migration cannot know the name of its database, so a view that calls another one works only where that is the current one.
    """
    client.execute(f"CREATE DATABASE IF NOT EXISTS {identifier(target)}")
    for name, view in _views(client, source).items():
        definition = _CALL.sub(f"{identifier(target)}.{_CALLED}(", view.definition)
        if not view.is_pointer and (source != target or definition != view.definition):
            create = f"CREATE OR REPLACE VIEW {identifier(target)}.{identifier(name)} "
            client.execute(_CREATE.sub(lambda _, create=create: create, definition, count=1))  # type: ignore[misc]


def _views(client: Client, database: str) -> Mapping[str, View]:
    """Those that migrations make, by name, such that a view comes after the one that it calls."""
    ours = clickhouse.names_made()
    rows = client.execute(
        "SELECT name, create_table_query, comment FROM system.tables WHERE database = %(database)s AND engine = 'View' "
        "ORDER BY name != %(called)s, name",
        {"database": database, "called": _CALLED},
    )
    return {name: View(name, definition, comment) for name, definition, comment in rows if name in ours}


def _pointer(client: Client, settings: Settings, view: View, numbers: Iterable[int], target: str) -> str:
    """The statement that makes a public view, with the columns and comments of the generation's own."""
    columns = client.execute(
        "SELECT name, type, comment FROM system.columns WHERE database = %(database)s AND table = %(table)s ORDER BY position",
        {"database": database_of(settings, max(numbers)), "table": view.name},
    )
    declared = ", ".join(f"{identifier(name)} {kind} COMMENT {_text(comment)}" for name, kind, comment in columns)
    selected = ", ".join(identifier(name) for name, _, _ in columns) or "*"
    arguments = ", ".join(f"{name} = {{{name}:{kind}}}" for name, kind in view.parameters.items())
    called = f"({arguments})" if arguments else ""
    live = LIVE.format(database=identifier(settings.clickhouse.database))
    branches = " UNION ALL ".join(
        f"SELECT {selected} FROM {identifier(database_of(settings, number))}.{identifier(view.name)}{called} WHERE {live} = {number}"
        for number in numbers
    )
    head = f"({declared}) " if declared else ""
    return f"CREATE OR REPLACE VIEW {target} {head}AS {branches}" + (f" COMMENT {_text(view.comment)}" if view.comment else "")


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
