"""`replay start`: a new generation beside the live one, from nothing to where the raw topics end, or on from where a killed one stopped.

What is to be done is fixed first, in the registry: the policy, where the raw topics begin and end. One generation is built
at a time. Whatever arrives meanwhile is read afterwards by its parts, as by those of the generations before.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec

from pipeline.adapters import clickhouse, patience, topics
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.alone import alone
from pipeline.bulk import workspace
from pipeline.bulk.rebuild import rebuild
from pipeline.core.policy import Policy
from pipeline.errors import UserError
from pipeline.lag import Place, Readings
from pipeline.logs import logger
from pipeline.policy_file import as_toml, load_policy
from pipeline.replay import registry, views
from pipeline.replay.registry import About, Generation, Offsets, State
from pipeline.settings import Settings

TELL_EVERY_S = 2.0

log = logger("replay")

Begun = Callable[[Generation, bool], None]
"""Called when it is known what is to be done, and whether it goes on from an earlier start."""
Progress = Callable[[int], None]
"""Called with the raw records that are done."""


class Wish(msgspec.Struct, frozen=True):
    """What the command line asks for; None where it says nothing."""

    policy: Policy | None = None
    since: int | None = None
    """Kafka timestamp, epoch milliseconds: raw records from then on."""


class Span(msgspec.Struct, frozen=True):
    """A stretch of the raw topics."""

    begin: dict[Place, int]
    until: dict[Place, int]

    @property
    def records(self) -> int:
        return sum(self.until[place] - begin for place, begin in self.begin.items())


def start(settings: Settings, wish: Wish, begun: Begun, progress: Progress) -> Generation:
    """Returns when the generation is built and its parts can go on with it. UserError if another one is being built."""
    if (building := registry.read(settings).building) is not None and building.has_builder:
        raise _taken(building)
    with alone(settings.data_dir / "rebuild" / "start.lock", "another `replay start` begins at this moment: one at a time"):
        return _start(settings, wish, begun, progress)


def _start(settings: Settings, wish: Wish, begun: Begun, progress: Progress) -> Generation:
    building = registry.read(settings).building
    generation = _claimed(settings, _new(settings, wish) if building is None else _old(building, wish))
    begun(generation, building is not None)
    of_generation = registry.settings_of(settings, generation)
    topics.create_topics(of_generation)
    views.migrate(of_generation)
    teller = _Teller(settings, generation, progress)
    begin, until = places(generation.about.begin), places(generation.about.until)
    rebuild(of_generation, load_policy(of_generation.policy_file), until, teller, begin)
    built = teller.ended()
    workspace.forget(of_generation)
    return built


def span(settings: Settings, since: int | None) -> Span:
    """The raw topics from a time on, or from their beginning, to their present end."""
    raw = list(RAW_TOPICS.values())
    with Readings(settings, ()) as readings:
        return Span(readings.begins(raw, since), readings.ends(raw))


def places(offsets: Offsets) -> dict[Place, int]:
    return {(topic, number): offset for topic, each in offsets.items() for number, offset in enumerate(each)}


def _new(settings: Settings, wish: Wish) -> Generation:
    number = max(generation.number for generation in registry.read(settings).known) + 1
    policy = wish.policy or load_policy(settings.policy_file)
    todo = span(settings, wish.since)
    about = About(registry.now_ms(), since=wish.since, begin=_offsets(todo.begin), until=_offsets(todo.until), records=todo.records)
    return Generation(number, State.BUILDING, as_toml(policy), about)


def _old(building: Generation, wish: Wish) -> Generation:
    """The one that was begun, if nobody works on it and nothing else is asked for."""
    number = building.number
    if building.has_builder:
        raise _taken(building)
    if wish.policy is not None and as_toml(wish.policy) != building.policy:
        raise UserError(f"generation {number} was begun under another policy: go on without --policy and --set, or `replay drop {number}`")
    if wish.since is not None and wish.since != building.about.since:
        raise UserError(f"generation {number} was begun with another --from: go on without it, or `replay drop {number}`")
    return building


def _taken(building: Generation) -> UserError:
    return UserError(f"generation {building.number} is being built by process {building.builder}: one at a time (see `replay status`)")


def _claimed(settings: Settings, generation: Generation) -> Generation:
    """Ours to build. Who thinks so at the same moment on another machine sees it when it tells how far it is (`_Teller`), and gives way."""
    about = msgspec.structs.replace(generation.about, builder=registry.this_process())
    return registry.write(settings, msgspec.structs.replace(generation, about=about))


class _Teller:
    """Keeps the registry told how far we are."""

    def __init__(self, settings: Settings, generation: Generation, progress: Progress) -> None:
        self._settings = settings
        self._generation = generation
        self._progress = progress
        self._told_at = time.monotonic()

    def __call__(self, done: int, _bytes: int = 0) -> None:
        self._progress(done)
        if time.monotonic() - self._told_at >= TELL_EVERY_S:
            with suppress(clickhouse.AwayError):  # it is told the next time
                self._tell(self._generation.state, done=done)

    def ended(self) -> Generation:
        """From now on the generation follows the raw topics."""
        records = self._generation.about.records
        self._progress(records)
        patience.until_there(
            lambda: self._tell(State.FOLLOWING, done=records, built_at=registry.now_ms(), builder=""),
            clickhouse.AwayError,
            threading.Event(),
            patience.Complaints(log),
        )
        return self._generation

    def _tell(self, state: State, **about: object) -> None:
        found = registry.read(self._settings).of(self._generation.number)
        if found.about.builder != self._generation.about.builder:
            raise _taken(found)
        now = time.monotonic()
        seconds = self._generation.about.seconds + now - self._told_at
        self._told_at = now
        told = msgspec.structs.replace(self._generation.about, seconds=seconds, **about)
        self._generation = registry.write(self._settings, msgspec.structs.replace(self._generation, state=state, about=told))


def _offsets(found: Mapping[Place, int]) -> Offsets:
    by_topic: dict[str, list[int]] = {}
    for topic, _ in sorted(found):
        by_topic.setdefault(topic, []).append(found[topic, len(by_topic.get(topic, ()))])
    return by_topic
