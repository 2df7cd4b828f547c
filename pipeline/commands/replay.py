"""Generations: rebuild everything beside what readers see, compare, switch, drop."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands import given
from pipeline.errors import UsageError

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Rebuild everything from the raw topics beside what readers see, and switch to it."
)
Policy = Annotated[
    Path | None, typer.Option(metavar="FILE.toml", help="Policy of the new generation; otherwise that of the settings (policy_file).")
]
Generation = Annotated[int | None, typer.Argument(min=1, help="Generation; otherwise the newest other one.")]


@app.command("start")
def start_replay(
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            help="Only what was published then or later (Kafka's timestamp, not when it happened): RFC 3339 or epoch milliseconds. "
            "The new generation knows nothing of what was published before: no event, and nobody's earlier identity.",
        ),
    ] = None,
    policy: Policy = None,
    set_: given.Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much it is, and about how long it would take.")] = False,
    json: given.Json = False,
) -> None:
    """Rebuild everything from the raw topics in a new generation, beside what readers see; goes on where a killed one stopped."""
    from pipeline import letters
    from pipeline.policy_file import load_policy
    from pipeline.replay import estimate, printing, start

    settings = given.settings()
    wished = load_policy(policy or settings.policy_file, set_ or (), setting="--policy" if policy else "policy_file")
    moment = letters.moment(since)
    if dry_run:
        printing.estimate(estimate.estimate(settings, moment, wished), as_json=json)
        return
    with printing.rebuilding() as (begun, progress):
        built = start.start(settings, start.Wish(wished if policy or set_ else None, moment), begun, progress)
    printing.built(built, as_json=json)


@app.command("status")
def replay_status(json: given.Json = False) -> None:
    """List the generations: their policy, how far they are, and which one readers see."""
    from pipeline.replay import printing
    from pipeline.replay.overview import overview

    printing.generations(overview(given.settings()), as_json=json)


@app.command("diff")
def replay_diff(
    generation: Generation = None,
    with_: Annotated[
        Path | None,
        typer.Option(
            "--with",
            exists=True,
            dir_okay=False,
            metavar="FILE.jsonl",
            help="Instead: what these events, which are not published yet, would change in what readers see.",
        ),
    ] = None,
    json: given.Json = False,
) -> None:
    """Tell what a switch would change for readers: contacts, links, sessions, and whose events are, by rule, with examples."""
    if generation is not None and with_ is not None:
        raise UsageError("name a generation or --with, not both")
    from pipeline.replay import diff, printing, what_if

    if with_ is None:
        printing.diff(diff.diff(given.settings(), generation), as_json=json)
    else:
        printing.what_if(what_if.what_if(given.settings(), with_), as_json=json)


@app.command("switch")
def switch_generation(
    generation: Generation = None,
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long it may take to catch up.")] = 60,
) -> None:
    """Have readers see another generation, all at once; the one before goes on, and can be switched back to."""
    from pipeline.replay import lifecycle

    print(f"readers see generation {lifecycle.switch(given.settings(), generation, wait)}")


@app.command("drop")
def drop_generation(generation: Annotated[int, typer.Argument(min=1, help="Generation that nobody needs any more.")]) -> None:
    """Delete a generation that readers do not see: its topics, groups and tables."""
    from pipeline.replay import lifecycle

    lifecycle.drop(given.settings(), generation)
    print(f"nothing is left of generation {generation}")
