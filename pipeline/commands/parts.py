"""The parts of the pipeline: one of them, all of them on this machine, and the demonstrations on all of them."""

import os
from enum import StrEnum
from typing import Annotated

import typer

from pipeline.commands import given


class Role(StrEnum):
    """The parts of `pipeline.app`, which takes a moment to import."""

    SESSIONIZE = "sessionize"
    IDENTIFY = "identify"
    RECORD = "record"


def worker(
    role: Annotated[Role, typer.Argument(help="Which part to run.")],
    instance: Annotated[str | None, typer.Option(help="Name among the processes of this role: 0, 1, 2 ... (worker.instance).")] = None,
    generation: Annotated[int | None, typer.Option(min=1, help="Generation to work for (see `replay`); otherwise the first.")] = None,
    parent: given.Parent = None,
) -> None:
    """Run one part of the pipeline until it is stopped."""
    given.heed(parent)
    os.environ.setdefault("POLARS_MAX_THREADS", "1")  # heard when polars is imported; a part's processes are its threads
    from pipeline.app import run_part

    settings = given.settings(instance=instance)
    if generation is not None:
        from pipeline.replay import registry

        settings = registry.worker_settings(settings, generation)
    raise typer.Exit(run_part(settings.acting_as(role), role) or 0)


def run(
    workers: Annotated[int, typer.Option(min=1, help="Processes of each part.")] = 1,
    edge: Annotated[bool, typer.Option("--edge", help="Run the collector too.")] = False,
    parent: given.Parent = None,
) -> None:
    """Run every part on this machine, with the embedded servers if no others are set; Ctrl-C stops all."""
    given.heed(parent)
    from pipeline import one_machine

    raise typer.Exit(one_machine.run(given.settings(), workers, edge=edge))


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running, for a look around.")] = False,
) -> None:
    """Play a day of real traffic and a few visitors through the whole pipeline, on servers of its own."""
    from infra.demo.play import play

    play(keep=keep)


def demo_site() -> None:
    """Serve a small site to click around on, on servers of its own, and show the timelines as they grow, until Ctrl-C."""
    from infra.demo_site.play import play

    play()
