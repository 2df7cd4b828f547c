"""Generations: which there are, which one readers see, and the settings that lead to each (docs/decisions/0009).

A generation is everything that follows from the raw topics under one policy: derived topics, consumer groups, transactions and a
database of its own. The first has the plain names and the policy of `policy_file`, and needs no row here; each later one
has the policy that it was made with. Numbers are never used again.

| state | what it means | who works on it |
|---|---|---|
| building | it is being rebuilt | `replay start` |
| following | it has been rebuilt, and follows the raw topics | its parts: `run`, or `worker ROLE --generation N` |
| dropping | it is going away | `replay drop` |
| dropped | nothing is left of it | nobody |

Both tables are in the readers' database. What was read last is kept in a file too, so that a worker of a later generation can
start while ClickHouse is away.
"""

import os
import platform
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException

from infra.processes import Identity, identity
from pipeline.adapters import clickhouse
from pipeline.errors import UserError
from pipeline.settings import Settings

Offsets = dict[str, list[int]]
"""Topic (logical name) -> an offset for each of its partitions."""

_SILENT_S = 60
"""A builder that has said nothing for so long is dead, if nobody can look whether its process is."""

_TABLES = (
    """
CREATE TABLE IF NOT EXISTS {database}.generations
(
    `number` UInt32 COMMENT 'Number of the generation; the first has no row until something happens to it',
    `state` LowCardinality(String) COMMENT 'building, following, dropping or dropped',
    `policy` String COMMENT 'The policy that it was made with, TOML; empty for the first, which follows policy_file',
    `about` String COMMENT 'How it was made: a JSON object (pipeline/replay/registry.py, About)',
    `told_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'When this was said',
    `version` UInt64 COMMENT 'The highest counts'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY number
COMMENT 'Generations of everything that follows from the raw topics'
""",
    """
CREATE TABLE IF NOT EXISTS {database}.generation_switches
(
    `number` UInt64 COMMENT 'The highest counts',
    `generation` UInt32 COMMENT 'Generation that readers see from then on',
    `switched_at` DateTime('UTC') DEFAULT now() COMMENT 'When'
)
ENGINE = MergeTree
ORDER BY number
COMMENT 'Which generation readers see'
""",
)
_ROWS = """
SELECT number, state, policy, about, version, dateDiff('second', told_at, now64(3)) FROM {database}.generations FINAL ORDER BY number
"""
LIVE = "(SELECT argMax(generation, (number, generation)) FROM {database}.generation_switches)"
"""The generation that readers see; 0 if there never was a switch."""


class State(StrEnum):
    BUILDING = "building"
    FOLLOWING = "following"
    DROPPING = "dropping"
    DROPPED = "dropped"


class About(msgspec.Struct, frozen=True):
    """How a generation was made. Times are epoch milliseconds, seconds those of building."""

    begun_at: int = 0
    built_at: int | None = None
    since: int | None = None
    """Kafka timestamp from which on raw records count; None for all."""
    begin: Offsets = {}
    until: Offsets = {}
    """The ends of the raw topics when it was begun: `building` is over when it has come so far."""
    records: int = 0
    """Raw records between the two."""
    done: int = 0
    seconds: float = 0.0
    builder: str = ""
    """Process that builds it."""


class Generation(msgspec.Struct, frozen=True):
    number: int
    state: State
    policy: str = ""
    about: About = About()
    version: int = 0
    silent_s: int = 0
    """How long ago this was said."""

    @property
    def exists(self) -> bool:
        return self.state is not State.DROPPED

    @property
    def has_builder(self) -> bool:
        """Whether a process is building it now."""
        if self.state is not State.BUILDING or not self.about.builder:
            return False
        host, process, started = (*self.about.builder.split("|"), "-1")[:3]
        if host != platform.node():
            return self.silent_s < _SILENT_S
        return Identity(int(process), int(started)).is_running()

    @property
    def builder(self) -> str:
        """The process that builds it, for people: machine and number."""
        return ", ".join(self.about.builder.split("|")[:2])


class Generations(msgspec.Struct, frozen=True):
    """All that there ever were, by number, and the one that readers see."""

    known: tuple[Generation, ...]
    live: int

    @property
    def existing(self) -> tuple[Generation, ...]:
        return tuple(generation for generation in self.known if generation.exists)

    @property
    def following(self) -> tuple[Generation, ...]:
        return tuple(generation for generation in self.known if generation.state is State.FOLLOWING)

    @property
    def building(self) -> Generation | None:
        return next((generation for generation in self.known if generation.state is State.BUILDING), None)

    @property
    def newest_other(self) -> int:
        """Of those that follow, beside the live one. UserError if there is none."""
        others = [generation.number for generation in self.following if generation.number != self.live]
        if not others:
            raise UserError("there is no other generation that has been rebuilt: begin with `replay start`")
        return max(others)

    def other(self, number: int | None, wanted_for: str) -> Generation:
        """Generation `number`, or the newest other one: rebuilt, and not what readers see. UserError if there is none."""
        found = self.of(self.newest_other if number is None else number)
        if found.number == self.live:
            raise UserError(f"readers see generation {found.number} already: name another one")
        if found.state is not State.FOLLOWING:
            raise UserError(f"generation {found.number} is {found.state}: only one that has been rebuilt can be {wanted_for}")
        return found

    def of(self, number: int) -> Generation:
        """UserError if there is none, or not any more."""
        for generation in self.existing:
            if generation.number == number:
                return generation
        numbers = ", ".join(str(generation.number) for generation in self.existing)
        was = "was dropped" if any(generation.number == number for generation in self.known) else "does not exist"
        raise UserError(f"generation {number} {was}; there are: {numbers} (see `replay status`)")


FIRST = Generations((Generation(1, State.FOLLOWING),), 1)
"""What there is where nothing was ever rebuilt."""


def read(settings: Settings) -> Generations:
    """All generations as they are now. With ClickHouse away: as they were when this machine looked last; AwayError if it never did."""
    try:
        found = _read(clickhouse.server(settings), settings.clickhouse.database)
    except clickhouse.AwayError:
        remembered = _memory(settings)
        if not remembered.exists():
            raise
        return msgspec.json.decode(remembered.read_bytes(), type=Generations)
    if found != FIRST:
        _write_file(_memory(settings), msgspec.json.encode(found))
    return found


def live(settings: Settings) -> Settings:
    """Settings that lead to the generation that readers see."""
    generations = read(settings)
    return settings_of(settings, generations.of(generations.live))


def last_live(settings: Settings) -> Settings:
    """The same, or the first generation's if nobody can tell which is live: for commands that have something to say without ClickHouse."""
    try:
        return live(settings)
    except UserError:
        return settings.of_generation(1)


def all_settings(settings: Settings) -> list[Settings]:
    """Settings that lead to each generation that follows the raw topics; to the first, if nobody can tell."""
    try:
        return [settings_of(settings, generation) for generation in read(settings).following]
    except clickhouse.AwayError:
        return [settings.of_generation(1)]


def elders(settings: Settings) -> list[Settings]:
    """Settings that lead to the generations before this one that are still there."""
    if settings.generation == 1:
        return []
    return [settings.of_generation(each.number) for each in read(settings).existing if each.number < settings.generation]


def worker_settings(settings: Settings, number: int) -> Settings:
    """Settings of a worker of that generation. UserError unless it has been rebuilt and follows the raw topics."""
    generation = read(settings).of(number)
    if generation.state is not State.FOLLOWING:
        raise UserError(f"generation {number} is {generation.state}: its parts run when it has been rebuilt (see `replay status`)")
    return settings_of(settings, generation)


def settings_of(settings: Settings, generation: Generation) -> Settings:
    """Settings that lead to the generation, with its policy, as far as it has one of its own, in a file of this machine."""
    found = settings.of_generation(generation.number)
    if not generation.policy:
        return found
    path = _directory(settings) / f"{found.database}.toml"
    _write_file(path, generation.policy.encode())
    return found.model_copy(update={"policy_file": path})


def write(settings: Settings, generation: Generation) -> Generation:
    """Says how the generation is from now on; returns it as it stands there."""
    client = clickhouse.server(settings)
    _create(client, settings)
    said = msgspec.structs.replace(generation, version=generation.version + 1, silent_s=0)
    row = (said.number, said.state.value, said.policy, msgspec.json.encode(said.about).decode(), said.version)
    client.execute(f"INSERT INTO {_database(settings)}.generations (number, state, policy, about, version) VALUES", [row])
    return said


def switch(settings: Settings, number: int) -> None:
    """From now on readers see that generation."""
    client = clickhouse.server(settings)
    _create(client, settings)
    ((last,),) = client.execute(f"SELECT max(number) FROM {_database(settings)}.generation_switches")
    client.execute(f"INSERT INTO {_database(settings)}.generation_switches (number, generation) VALUES", [(last + 1, number)])


def forget(settings: Settings) -> None:
    """What this machine keeps of a generation that is no more: its policy, and what its parts said while it was rebuilt."""
    for kind in ("toml", "log"):
        (_directory(settings) / f"{settings.database}.{kind}").unlink(missing_ok=True)


def this_process() -> str:
    """As `About.builder` has it: machine, number, and when it was started, since numbers are used again (in containers, at once)."""
    return f"{platform.node()}|{os.getpid()}|{identity(os.getpid()).started}"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _read(client: Client, database: str) -> Generations:
    named = clickhouse.identifier(database)
    try:
        rows: Sequence[tuple[Any, ...]] = client.execute(_ROWS.format(database=named))
        ((live,),) = client.execute(f"SELECT {LIVE.format(database=named)}")
    except ServerException as error:
        if error.code in clickhouse.NOT_THERE:
            return FIRST
        raise
    told = [
        Generation(number, State(state), policy, msgspec.json.decode(about, type=About), version, silent_s)
        for number, state, policy, about, version, silent_s in rows
    ]
    first = () if told and told[0].number == 1 else FIRST.known
    return Generations((*first, *told), live or 1)


def _create(client: Client, settings: Settings) -> None:
    client.execute(f"CREATE DATABASE IF NOT EXISTS {_database(settings)}")
    for table in _TABLES:
        client.execute(table.format(database=_database(settings)))


def _database(settings: Settings) -> str:
    return clickhouse.identifier(settings.clickhouse.database)


def _directory(settings: Settings) -> Path:
    return settings.data_dir.absolute() / "generations"


def _memory(settings: Settings) -> Path:
    return _directory(settings) / f"{settings.clickhouse.database}.json"


def _write_file(path: Path, content: bytes) -> None:
    """Whole or not at all; several processes may do it at once."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(content)
    fresh.replace(path)
