"""What a run of either benchmark is given, and whether all of it arrived."""

from pathlib import Path
from typing import Annotated

import typer

from bench.traffic import Traffic
from infra.demo.stage import Stage
from pipeline.adapters import clickhouse
from pipeline.errors import UserError

Events = Annotated[int, typer.Option(min=1, help="Events to generate.")]
Cookies = Annotated[int, typer.Option(min=1, help="Cookies that they belong to.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same events.")]
Directory = Annotated[Path | None, typer.Option(help="Where servers and events go; otherwise a temporary directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def arrived(ready: Stage, traffic: Traffic) -> dict[str, int]:
    """How many rows each view shows. UserError if these are not all events."""
    client = clickhouse.connect(ready.settings)
    views = ("events", "retracted_events", "sessions", "contacts", "links", "failed_events")
    rows = {view: client.execute(f"SELECT count() FROM {view}")[0][0] for view in views}
    if (shown := rows["events"] + rows["retracted_events"]) != traffic.events:
        raise UserError(f"published {traffic.events} events, ClickHouse shows {shown}, retracted ones included: see {ready.log}")
    return rows
