"""What becomes of a generation once it is built: readers are switched to it, and back; one that nobody needs any more is dropped.

Switching is one row (views.py). All generations go on following the raw topics until they are dropped, so going back loses nothing.
"""

import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from pipeline import catching_up
from pipeline.adapters import clickhouse, kafka
from pipeline.adapters.clickhouse import identifier
from pipeline.adapters.contracts import load_topics
from pipeline.app import ROLES
from pipeline.bulk import workspace
from pipeline.errors import UserError
from pipeline.replay import registry, views
from pipeline.replay.registry import Generation, State
from pipeline.settings import Settings

_TIMEOUT_S = 30.0
_RETRY_S = 0.5
_GONE = {KafkaError.GROUP_ID_NOT_FOUND, KafkaError.UNKNOWN_TOPIC_OR_PART}


def switch(settings: Settings, number: int | None, wait_s: float) -> int:
    """Readers see generation `number` from now on, or the newest other one; which that is. It must have caught up within `wait_s`.

    UserError if it has not, is not built, or is what readers see already.
    """
    generations = registry.read(settings)
    wanted = generations.other(number, "switched to")
    behind = catching_up.wait(registry.settings_of(settings, wanted), wait_s)
    if behind:
        raise UserError(
            f"generation {wanted.number} has not caught up after {wait_s:g} s: {behind}. Do its parts run? `run` starts them, "
            f"on other machines it is `worker ROLE --generation {wanted.number}`. Readers still see generation {generations.live}."
        )
    views.install(settings)
    registry.switch(settings, wanted.number)
    return wanted.number


def drop(settings: Settings, number: int, wait_s: float = 60.0) -> None:
    """Leaves nothing of the generation: groups, topics, tables. What is common to all stays. May be done again after a failure.

    UserError if readers see it, if it is being built, or if its parts still run after `wait_s`.
    """
    generations = registry.read(settings)
    doomed = generations.of(number)
    if number == generations.live:
        raise UserError(f"readers see generation {number}: switch to another one first (`replay switch`)")
    if doomed.has_builder:
        raise UserError(f"generation {number} is being built by process {doomed.builder}: end that first")
    doomed = _in_state(settings, doomed, State.DROPPING)
    of_generation = settings.of_generation(number)
    _delete_groups(of_generation, wait_s)
    _delete_topics(of_generation)
    if views.is_installed(settings):
        views.install(settings)
    _drop_tables(settings, number)
    _in_state(settings, doomed, State.DROPPED)
    registry.forget(of_generation)
    workspace.forget(of_generation)


def _in_state(settings: Settings, generation: Generation, state: State) -> Generation:
    return registry.write(settings, Generation(generation.number, state, generation.policy, generation.about, generation.version))


def _delete_groups(settings: Settings, wait_s: float) -> None:
    """Once they are empty: `run` ends its parts within seconds; one that died leaves its group after the session timeout."""
    client = kafka.admin(settings)  # by name: without it the answers would die with it
    deadline = time.monotonic() + wait_s
    left = [kafka.group_name(settings, part) for part in ROLES]
    while left := _still_there(settings, client.delete_consumer_groups(left, request_timeout=_TIMEOUT_S).items()):
        if time.monotonic() > deadline:
            raise UserError(
                f"parts of generation {settings.generation} still run: {', '.join(left)}. Stop them (workers on other machines do not "
                f"stop by themselves), and drop it again."
            )
        time.sleep(_RETRY_S)


def _delete_topics(settings: Settings) -> None:
    present = kafka.reach(settings).topics
    own = [name for topic in load_topics() if not kafka.is_common(topic) and (name := kafka.topic_name(settings, topic)) in present]
    if own:
        client = kafka.admin(settings)
        _still_there(settings, client.delete_topics(own, request_timeout=_TIMEOUT_S).items())


def _still_there(settings: Settings, answers: Iterable[tuple[str, Any]]) -> list[str]:
    """Names of groups that have members. UserError for whatever else was not deleted."""
    left = []
    for name, answer in answers:
        try:
            answer.result()
        except KafkaException as exception:
            error: KafkaError = exception.args[0]
            if error.code() == KafkaError.NON_EMPTY_GROUP:
                left.append(name)
            elif error.code() not in _GONE:
                raise kafka.user_error(settings, error) from None
    return left


def _drop_tables(settings: Settings, number: int) -> None:
    """The generation's database. The first one's tables are in the readers' database, where the public views, the registry, and
    whatever others have made there stay.
    """
    client = clickhouse.server(settings)
    client.execute(f"DROP DATABASE IF EXISTS {identifier(views.database_of(settings, number))} SYNC")
    if number > 1:
        return
    database = settings.clickhouse.database
    doomed = clickhouse.names_made() - views.names(client, database)
    rows = client.execute(
        "SELECT name FROM system.tables WHERE database = %(database)s ORDER BY NOT endsWith(engine, 'View')", {"database": database}
    )
    for (name,) in rows:
        if name in doomed:
            client.execute(f"DROP TABLE IF EXISTS {identifier(database)}.{identifier(name)} SYNC")
