"""Files of events: resolve them here, or publish them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands import given


def resolve(
    file: given.InputFile,
    policy: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Policy file; otherwise the defaults.")] = None,
    set_: given.Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON: it always does.")] = True,  # noqa: ARG001 - as all have it
) -> None:
    """Compute contacts, links, sessions and event owners of a file: no Kafka, no ClickHouse."""
    from pipeline.policy_file import load_policy
    from pipeline.resolve import resolve_file

    sys.stdout.buffer.write(resolve_file(file, load_policy(policy, set_ or (), setting="--policy")) + b"\n")


def publish(file: given.InputFile, json: given.Json = False) -> None:
    """Check the events of a file and publish them to the raw topics; refused lines go to the dead letters."""
    from pipeline import output
    from pipeline.publish import publish as publish_file

    settings = given.settings("publish")
    with output.publishing() as progress:
        counts = publish_file(settings, file, progress)
    output.counts(counts.published, counts.refused, as_json=json)
