"""`demo-site`: servers, all parts, the collector and a small site; the terminal shows the timelines as they grow, until Ctrl-C.

Read it from the top: `play` does what somebody does who puts the product on a site, in that order.
"""

import os
import secrets
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from string import Template

import requests

from infra.demo.script import write
from infra.demo.stage import Stage, console, running, stage, step
from infra.demo_site.growth import Growth
from infra.demo_site.mails import CUSTOMER, Mails, imports
from infra.demo_site.places import HOSTS, KEY_VARIABLE, MAIL_HOST, WAYS, Places, chosen
from infra.demo_site.server import pages
from pipeline import catching_up, logs, output, timelines
from pipeline.adapters import clickhouse, topics
from pipeline.edge import portals
from pipeline.edge.core.sealing import KEY_BYTES
from pipeline.errors import UserError
from pipeline.publish import publish
from pipeline.settings import Log, Settings

_INVITATION = Template(Path(__file__).with_name("invitation.txt").read_text(encoding="utf-8"))
DIRECTORY = Path(".data/demo-site")
_START_S = 120.0
_LOOK_EVERY_S = 0.5


def play(directory: Path = DIRECTORY) -> None:
    """Runs in `directory`, which is emptied first, until Ctrl-C or SIGTERM; then no process is left."""
    logs.configure(Log(level="warning"))
    with ExitStack() as put_away:
        try:
            places, settings = _open(put_away, directory)
            print(_invitation(places, directory), flush=True)
            _watch(settings)
        except KeyboardInterrupt:
            console.print("stopping ...")


def _open(put_away: ExitStack, directory: Path) -> tuple[Places, Settings]:
    """Everything that runs, each in its turn."""
    with step("Kafka and ClickHouse run"):
        ready = put_away.enter_context(stage(directory))
    places = chosen()
    ready = _with_collector(ready, places, directory)
    put_away.enter_context(running(ready, edge=True))
    with step("topics and tables exist"):  # the parts see to it too; meanwhile they start
        topics.create_topics(ready.settings)
        clickhouse.migrate(ready.settings)
    with step(f"{CUSTOMER} is imported as a customer of every site"):
        publish(ready.settings, write(imports(time.time_ns() // 1_000_000), directory / "customers.jsonl"))
    with step("the collector listens, and every part is at work"):
        _wait(ready, places)
    put_away.enter_context(pages(places, Mails(places, portals.load(ready.settings.edge.portals_file))))
    return places, ready.settings


def _with_collector(ready: Stage, places: Places, directory: Path) -> Stage:
    """The same with the collector's settings, its portals file, and a key for links in the environment."""
    os.environ[KEY_VARIABLE] = secrets.token_hex(KEY_BYTES)
    file = directory / "portals.toml"
    file.write_text(places.portals(), encoding="utf-8")
    edge = ready.settings.edge.model_copy(update={"portals_file": file, "port": places.collector, "metrics_port": 0})
    return replace(ready, settings=ready.settings.model_copy(update={"edge": edge}))


def _wait(ready: Stage, places: Places) -> None:
    """Until a click would be seen. UserError, with the end of the log, if that does not come."""
    deadline = time.monotonic() + _START_S
    while not _answers(places.collector):
        if time.monotonic() > deadline:
            raise UserError(f"the collector did not listen within {_START_S:g} s; the log ends with\n{ready.log.read_text()[-2000:]}")
        time.sleep(0.1)
    if behind := catching_up.wait(ready.settings, _START_S):
        raise UserError(f"the parts did not catch up within {_START_S:g} s: {behind}; see {ready.log}")


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/ready", timeout=2).ok
    except requests.RequestException:
        return False


def _invitation(places: Places, directory: Path) -> str:
    """What to open, and what to try."""
    first = WAYS[0]
    return _INVITATION.substitute(
        site=places.at(first.site),
        mail=f"{places.at(MAIL_HOST):<40}",
        modes="\n".join(f"  {places.at(way.site):<40}  {way.mode}: {way.in_words}" for way in WAYS),
        customer=CUSTOMER,
        hosts=" ".join(HOSTS),
        pages=places.pages,
        collector=places.collector,
        collector_origin=places.collector_origin,
        directory=directory,
        portal=first.portal,
    )


def _watch(settings: Settings) -> None:
    """Shows what is new on the timelines, for ever."""
    client, growth = clickhouse.connect(settings), Growth()
    while True:
        output.print_lines(growth.lines(timelines.everybody(client)))
        time.sleep(_LOOK_EVERY_S)
