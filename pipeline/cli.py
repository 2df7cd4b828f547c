"""The command line: every command by its name, and how a command ends (spec: timeline.md, "Commands").

The commands are in `pipeline/commands/`. Each is a few lines: read the arguments, call one function, print. `--help` and `resolve`
start at once, since every command imports only what it needs. Exit codes: 0 success, 1 failure, 2 wrong usage. Data goes to stdout,
everything else to stderr.
"""

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Annotated, NoReturn

import typer

from pipeline import bugs
from pipeline.commands import asking, edge, files, letters, parts, replay, servers
from pipeline.errors import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
for command in (
    files.resolve,
    files.publish,
    parts.worker,
    parts.run,
    edge.link,
    edge.debug,
    asking.timeline,
    asking.explain,
    asking.status,
    asking.config,
    servers.migrate,
    parts.demo,
    parts.demo_site,
):
    app.command()(command)
app.add_typer(servers.topics_app, name="topics")
app.add_typer(edge.app, name="edge")
app.add_typer(letters.app, name="dead-letters")
app.add_typer(replay.app, name="replay")


@app.callback()
def options(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE.toml", help="Settings file; otherwise PIPELINE_CONFIG, or pipeline.toml if there is one."),
    ] = None,
) -> None:
    """Raw visitor events in, contact timelines out: Kafka, Faust, ClickHouse.

    Settings: see `config`.
    """
    if config is not None:
        os.environ["PIPELINE_CONFIG"] = str(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command (`sys.argv` by default) and returns its exit code."""
    return guarded(app, "python -m pipeline", arguments)


def guarded(commands: Callable[..., object], name: str, arguments: Sequence[str] | None = None) -> int:
    """The exit code of a typer application. What a user can mend is a message; of a bug there are the kind and the places."""
    _open_closed_streams()
    try:
        try:
            commands(args=None if arguments is None else list(arguments), prog_name=name)
        finally:
            sys.stdout.flush()  # what cannot be written is told like any other failure
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (BrokenPipeError, KeyboardInterrupt):
        return 1  # whoever read us, or waits for us, has seen enough
    except BaseException as error:  # noqa: BLE001 - the outermost frame: a bug ends the process; a panic of polars is no Exception
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            print(f"error: cannot write: {error.strerror}. Make room, or write to another place.", file=sys.stderr)
            return 1
        print(bugs.trace(error, _from_the_command_on(error.__traceback__)), file=sys.stderr)
        print("error: a bug in the pipeline; please report it with the lines above", file=sys.stderr)
        return 1
    return 0


def end(code: int) -> NoReturn:
    """Ends the process now. A destructor of librdkafka may wait for ever for a broker that is gone; what matters was flushed before."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _open_closed_streams() -> None:
    """Who started us may have closed some (`>&-`): what is written there goes nowhere, and no file or connection gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - as long as the process lives
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of another encoding


def _from_the_command_on(trace: TracebackType | None) -> TracebackType | None:
    """The frames below those of the command line's library, which are always the same."""
    ours, at = trace, trace
    while at is not None:
        if at.tb_frame.f_globals.get("__name__", "").startswith("typer"):
            ours = at.tb_next
        at = at.tb_next
    return ours
