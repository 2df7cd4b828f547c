"""`replay status`: every generation that there is, how far it is, and what is in it."""

from dataclasses import dataclass

from clickhouse_driver.errors import ServerException

from pipeline.adapters import clickhouse
from pipeline.app import ROLES
from pipeline.core.policy import Policy
from pipeline.lag import Readings, consumed
from pipeline.policy_file import load_policy
from pipeline.replay import registry, views
from pipeline.replay.registry import Generation, Offsets, State
from pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Described:
    """One generation. Times in epoch ms; counts None while there is no table to count; `policy` as in the policy file."""

    generation: int
    live: bool
    """Whether readers see it."""
    state: State
    policy: dict[str, dict[str, object]]
    since: int | None
    until: Offsets
    begun_at: int | None
    built_at: int | None
    records: int
    done: int
    seconds: float
    is_being_built: bool
    """Whether a process is building it now; a replay that was killed goes on with `replay start`."""
    behind: int | None
    """Records that its parts have not read yet."""
    processes: int | None
    events: int | None
    contacts: int | None
    links: int | None
    sessions: int | None

    @property
    def unusual(self) -> list[str]:
        """What its policy says otherwise than the defaults."""
        usual = Policy().as_dict()
        return [
            f"{section}.{name}={value}"
            for section, of in self.policy.items()
            for name, value in of.items()
            if usual[section][name] != value
        ]


def overview(settings: Settings) -> list[Described]:
    """All generations that exist. UserError if ClickHouse or Kafka does not answer."""
    generations = registry.read(settings)
    return [_described(settings, generation, live=generation.number == generations.live) for generation in generations.existing]


def _described(settings: Settings, generation: Generation, *, live: bool) -> Described:
    of_generation = registry.settings_of(settings, generation)
    about = generation.about
    follows = generation.state is State.FOLLOWING
    behind, processes = _reading(of_generation) if follows else (None, None)
    return Described(
        generation.number,
        live,
        generation.state,
        load_policy(of_generation.policy_file).as_dict(),
        about.since,
        about.until,
        about.begun_at or None,
        about.built_at,
        about.records,
        about.done,
        about.seconds,
        generation.has_builder,
        behind,
        processes,
        *(_count(of_generation, view) for view in ("events", "contacts", "links", "sessions")),
    )


def _reading(settings: Settings) -> tuple[int, int]:
    """How many records wait for the generation's parts, and how many processes are at work."""
    with Readings(settings, ROLES) as readings:
        waiting = sum(reading.records for part in ROLES for reading in readings.read(part, consumed(part)))
        return waiting, sum(map(readings.processes, ROLES))


def _count(settings: Settings, view: str) -> int | None:
    """Rows of a generation's own view, as far as it has one already."""
    client = clickhouse.server(settings)
    for database in (views.database_of(settings, settings.generation), settings.database):
        try:
            ((count,),) = client.execute(f"SELECT count() FROM {clickhouse.identifier(database)}.{view}")
            return int(count)
        except ServerException as error:
            if error.code not in clickhouse.NOT_THERE:
                raise
    return None
