"""Runs a part in this process until SIGTERM or SIGINT: `run_worker(part)` gives the exit code.

0 after a signal: the batch in hand is finished and committed, the group left, within `leaving.DRAIN_S`. 1 when the part cannot go on:
a supervisor starts it again. Before it starts it waits for Kafka, and checks the topics.
"""

import asyncio
import signal
import sys
from typing import Any

from aiokafka.errors import KafkaConnectionError

from pipeline import garbage
from pipeline.adapters import acls, kafka
from pipeline.agents.harness import Part
from pipeline.errors import UserError
from pipeline.leaving import leave_at_last
from pipeline.logs import logger
from pipeline.settings import Settings

_PATIENCE_S = 5.0

log = logger("worker")


def run_worker(part: Part) -> int:
    """Blocks. UserError if the topics are not as the part needs them."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # nothing has begun yet
    wait_for_topics(part)
    return asyncio.run(_run(part))


def wait_for_topics(part: Part) -> None:
    """Returns when Kafka answers and has the part's topics, those that are read together with equal numbers of partitions."""
    topics = _topics(part.settings)
    acls.check_rights(part.settings, part.name)  # a topic that we may not see would look missing
    for group in (*part.copartitioned, *((target,) for target in part.targets)):
        _check({name: topics.get(kafka.topic_name(part.settings, name), 0) for name in group})


def _topics(settings: Settings) -> dict[str, int]:
    """The broker's topics and their numbers of partitions, once it answers. UserError if it does not let us in."""
    while True:
        try:
            found = kafka.reach(settings, _PATIENCE_S).topics
            return {name: len(topic.partitions) for name, topic in found.items()}
        except kafka.AwayError as error:
            log.warning("waiting for Kafka", error=str(error))


def _check(partitions: dict[str, int]) -> None:
    missing = [name for name, count in partitions.items() if count == 0]
    if missing:
        raise UserError(f"Topics are missing in Kafka: {', '.join(missing)}. Make them with `python -m pipeline topics create`.")
    if len(set(partitions.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in partitions.items())
        raise UserError(
            f"Topics that are read together need the same number of partitions: {counts}. Correct that in Kafka "
            f"(`python -m pipeline topics check` names what is not as it should be), or set another kafka.topic_prefix."
        )


async def _run(part: Part) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = part.app
    app.in_worker = True
    reporting = asyncio.create_task(part.report())
    starting = asyncio.create_task(app.start())
    stopping = asyncio.create_task(stop.wait())
    crashing = asyncio.create_task(app.wait_until_stopped())
    await asyncio.wait([starting, stopping, crashing], return_when=asyncio.FIRST_COMPLETED)
    if starting.done() and starting.exception() is None:
        garbage.what_is_there_stays()
        log.info("ready", app=part.name)
        await asyncio.wait([stopping, crashing], return_when=asyncio.FIRST_COMPLETED)
    return await _end(part, [reporting, starting, stopping, crashing], asked=stop.is_set())


async def _end(part: Part, tasks: list[asyncio.Task[Any]], *, asked: bool) -> int:
    reason = part.app.crash_reason or (tasks[1].exception() if tasks[1].done() else None)
    if not asked and isinstance(reason, UserError):
        log.critical(str(reason), app=part.name)
    elif not asked and isinstance(reason, KafkaConnectionError):
        log.critical("Kafka went away while the worker started; started again, it waits", app=part.name, error=str(reason))
    elif not asked:
        log.critical("the worker cannot go on", app=part.name, exc_info=reason)
    code = 0 if asked else 1
    leave_at_last(code)
    await part.app.stop()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=1)
    part.health_file.write()
    if asked:
        part.health_file.remove()
    log.info("stopped", app=part.name)
    return code
