"""From what a part does (`Fold`, `Route`) to a Faust app that does it: one agent per step, which hands batches to lanes (lanes.py).

Batches are worked on in threads, so that the membership in the group is kept alive whatever they take, and acked when they are
done for good: the streams never ack by themselves (`noack`). A batch that has begun ends whatever becomes of the agent, and
an exception of ours ends the process, before anything could be committed. A supervisor starts it again, from the committed offsets.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any, NoReturn, cast

from faust.types import TP

from pipeline.adapters import kafka
from pipeline.adapters.batching import Consumer, RawSchema
from pipeline.adapters.faust_app import USUAL, BatchApp, Timings, faust_app, refused
from pipeline.agents.decoding import Decode
from pipeline.agents.folding import Fold, Folding
from pipeline.agents.health import HealthFile
from pipeline.agents.lanes import Lanes, Work
from pipeline.agents.routing import Route, Routing
from pipeline.errors import UserError
from pipeline.logs import logger
from pipeline.settings import Settings

__all__ = ["Fold", "Part", "Route", "Timings", "part"]

EXIT_BUG = 1
"""Exit code when we end the process ourselves: whoever supervises starts it again."""
_HEALTH_EVERY_S = 1.0

log = logger("agents")


class Part:
    """A part of the pipeline, ready for `worker.run_worker`: the Faust app, what it needs in Kafka, and its health."""

    def __init__(self, settings: Settings, name: str, timings: Timings) -> None:
        self.settings = settings
        self.name = name
        self.timings = timings
        self.app: BatchApp = faust_app(settings, name, timings)
        self.app.on_refused = lambda error: _bug(refused(settings, error))
        self.health_file = HealthFile(settings, name)
        self.copartitioned: list[tuple[str, ...]] = []
        """Groups of logical topics that must exist with one number of partitions."""
        self.targets: set[str] = set()
        """Logical topics that must exist besides."""
        self.app.on_partitions_assigned.connect(self._on_assigned)  # type: ignore[arg-type]
        self._foldings: list[tuple[tuple[str, ...], Folding]] = []

    def fold(self, fold: Fold, decode: Decode) -> None:
        folding = Folding(self.settings, self.name, fold, decode, self.health_file.health)
        self.copartitioned.append((*fold.sources, f"{self.name}-{fold.table}-changelog"))
        self._foldings.append((fold.sources, folding))
        self._agent(fold.sources, folding)

    def route(self, route: Route, decode: Decode) -> None:
        self.copartitioned.append(route.sources)
        self.targets.add(route.target)
        self._agent(route.sources, Routing(self.settings, route, decode, self.health_file.health))

    async def report(self) -> None:
        """Writes the health record once a second, for as long as the process lives."""
        while True:
            await asyncio.to_thread(self.health_file.write)
            await asyncio.sleep(_HEALTH_EVERY_S)

    def _agent(self, sources: tuple[str, ...], work: Work) -> None:
        topics = [kafka.topic_name(self.settings, topic) for topic in sources]
        channel = self.app.topic(*topics, schema=RawSchema())

        lanes = Lanes(work, self.settings.worker.batch_records, self._settled, _bug)  # one for all lives of the agent: order is kept

        async def agent(stream: Any) -> None:
            async for event in stream.noack().events():
                await self._take(lanes, event)

        self.app.agent(channel, name=f"{self.name}.{sources[0]}", concurrency=1)(agent)

    async def _take(self, lanes: Lanes, event: Any) -> None:
        """One batch, as it is delivered. One from before a seek comes again and is left alone."""
        consumer = cast(Consumer, self.app.consumer)
        try:
            due = consumer.is_due(event.value)
        except Exception as error:  # noqa: BLE001  # whatever it is: see the top
            _bug(error)
        if due:
            await lanes.put(event)
        else:
            consumer.abandon(event.message)

    def _settled(self, events: Sequence[Any], ours: bool) -> None:  # noqa: FBT001  # the answer of `settle`
        if ours:
            for event in events:
                event.ack()
            return
        consumer = cast(Consumer, self.app.consumer)
        for event in events:
            consumer.abandon(event.message)
        asyncio.get_running_loop().call_later(2 * self.timings.session, self._still_ours, events[-1].value.generation)

    def _still_ours(self, generation: int) -> None:
        """Some time after we were fenced. If the group still has us in the same generation, nobody works on the partition now."""
        if self.app.consumer_generation_id == generation and not self.app.should_stop:
            end_process("fenced from a partition that the group says is ours: starting afresh", None)

    async def _on_assigned(self, app: Any, assigned: set[TP], /, **kwargs: Any) -> None:  # noqa: ARG002
        for sources, folding in self._foldings:
            topics = {kafka.topic_name(self.settings, topic) for topic in sources}
            await asyncio.to_thread(folding.keep, {tp.partition for tp in assigned if tp.topic in topics})


def part(settings: Settings, name: str, *steps: Fold | Route, decode: Decode, timings: Timings = USUAL) -> Part:
    """The part `name` (its consumer group, too) with these steps; `decode` is the registry's `decode_events`."""
    made = Part(settings, name, timings)
    for step in steps:
        if isinstance(step, Fold):
            made.fold(step, decode)
        else:
            made.route(step, decode)
    return made


def _bug(error: BaseException) -> NoReturn:
    end_process("an exception in a part: this is a bug", error)


def end_process(why: str, error: BaseException | None) -> NoReturn:
    """At once: no handler may run that commits offsets, and the batch in hand is not done."""
    if isinstance(error, UserError):
        log.critical(str(error))
    else:
        log.critical(why, exc_info=error)
    logging.shutdown()
    os._exit(error.exit_code if isinstance(error, UserError) else EXIT_BUG)
