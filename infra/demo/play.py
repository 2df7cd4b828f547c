"""`demo`: a day of real traffic and a few visitors through the whole pipeline, and what came of it.

Read it from the top: `_perform` does what a user of the pipeline does, in that order.
"""

import signal
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import orjson
from confluent_kafka import Producer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from infra.demo import report, visibility
from infra.demo.script import EMAIL, Json, Script, script, write
from infra.demo.stage import Stage, console, running, stage, step
from pipeline import catching_up, logs, timelines
from pipeline.adapters import clickhouse, kafka, topics
from pipeline.adapters.avro import Registry
from pipeline.adapters.contracts import RAW_TOPICS
from pipeline.core.events import Event
from pipeline.core.parsing import parse_line
from pipeline.errors import UserError
from pipeline.publish import publish
from pipeline.settings import Log, Settings
from pipeline.timelines import Timeline

DIRECTORY = Path(".data/demo")
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Performance:
    """What was seen: the visitor's timeline before and after the form, and the seconds until each form was visible."""

    before: Timeline
    after: Timeline
    visible_after_s: list[float]
    equals_resolve: bool


def play(*, keep: bool = False, directory: Path = DIRECTORY) -> None:
    """Plays the demo in `directory`, which is emptied first. `keep`: leaves everything running until Ctrl-C or SIGTERM."""
    logs.configure(Log(level="warning"))
    began, scenes = time.monotonic(), script()
    with ExitStack() as put_away:
        with step("Kafka and ClickHouse run"):
            ready = put_away.enter_context(stage(directory))
        put_away.enter_context(running(ready))
        with step("topics and tables exist"):  # the parts see to it too; meanwhile they start
            topics.create_topics(ready.settings)
            clickhouse.migrate(ready.settings)
        performance = _perform(ready, scenes, directory)
        report.show(ready.settings, scenes, performance.before, performance.after)
        report.show_measures(performance.visible_after_s, equals_resolve=performance.equals_resolve, seconds=time.monotonic() - began)
        if keep:
            report.show_addresses(ready.settings, directory)
            _wait_for_a_signal()
        else:
            report.show_what_next(directory)


def _perform(ready: Stage, scenes: Script, directory: Path) -> Performance:
    settings, sign_up = ready.settings, scenes.sign_up
    with step(f"{len(scenes.history):,} events published: a day of www.ksc.nasa.gov, and a few visitors"):
        publish(settings, write(scenes.history, directory / "history.jsonl"))
    _watch(settings, len(scenes.history))
    before = timelines.timeline(settings, sign_up["portal_id"], utk=sign_up["utk"])
    with step(f"{len(scenes.forms)} forms published, one after the other, each visible in ClickHouse"):
        seconds = _publish_forms(settings, scenes)
    everything = (*scenes.history, *scenes.forms)
    write(everything, directory / "events.jsonl")
    _wait(settings)
    with step("compared with `resolve`"):
        equal = visibility.all_shown(clickhouse.connect(settings)) == visibility.all_owners(visibility.resolved(everything).events)
    return Performance(before, timelines.timeline(settings, sign_up["portal_id"], email=EMAIL), seconds, equal)


def _publish_forms(settings: Settings, scenes: Script) -> list[float]:
    """Seconds from when Kafka took each form until its visitor's history was the contact's in ClickHouse."""
    client, seconds = clickhouse.connect(settings), []
    registry, producer = Registry(settings), kafka.producer(settings)
    known: dict[int, list[Json]] = defaultdict(list)
    for event in scenes.history:
        known[event["portal_id"]].append(event)
    for form in scenes.forms:
        known[form["portal_id"]].append(form)
        expected = visibility.owners(visibility.resolved(known[form["portal_id"]]).events, form["utk"])
        taken_at = _publish_one(settings, registry, producer, form)
        visibility.wait_until_shown(client, form, expected)
        seconds.append(time.monotonic() - taken_at)
    return seconds


def _publish_one(settings: Settings, registry: Registry, producer: Producer, form: Json) -> float:
    """When Kafka took the form, by the monotonic clock."""
    event = parse_line(orjson.dumps(form))
    assert isinstance(event, Event), "the demo's forms are events"
    taken_at: list[float] = []
    producer.produce(
        kafka.topic_name(settings, RAW_TOPICS[event.type]),
        registry.encode_event(event),
        event.utk or event.event_id,
        on_delivery=lambda *_: taken_at.append(time.monotonic()),
    )
    producer.flush()
    return taken_at[0]


def _watch(settings: Settings, expected: int) -> None:
    """Shows how many of the events are in ClickHouse until every part has caught up."""
    client = clickhouse.connect(settings)
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("events in ClickHouse", total=expected)
        _wait(settings, lambda: progress.update(task, completed=client.execute("SELECT count() FROM events")[0][0]))
        progress.update(task, completed=expected)


def _wait(settings: Settings, meanwhile: Callable[[], object] = lambda: None) -> None:
    behind = catching_up.wait(settings, PATIENCE_S, meanwhile)
    if behind:
        raise UserError(f"the parts did not catch up within {PATIENCE_S:g} s: {behind}")


def _wait_for_a_signal() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopping ...")
