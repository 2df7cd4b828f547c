# ruff: noqa: FBT002 - switches are options of the command line
"""The commands (spec: timeline.md, "Commands"). Each is a few lines: read the arguments, call one function, print.

`--help` and `resolve` start at once, since every command imports only what it needs. Exit codes: 0 success,
1 failure, 2 wrong usage. Data goes to stdout, everything else to stderr.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pipeline.errors import UsageError, UserError

if TYPE_CHECKING:
    from pipeline.edge.core.portal import Portal
    from pipeline.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
topics_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The Kafka topics of topics/*.yaml.")
app.add_typer(topics_app, name="topics")
edge_app = typer.Typer(rich_markup_mode=None, help="The collector: from browsers, forms and mails to the raw topics.")
app.add_typer(edge_app, name="edge")
letters_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What was refused: count it, look at it, put it back.")
app.add_typer(letters_app, name="dead-letters")
replay_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Rebuild everything from the raw topics beside what readers see, and switch to it."
)
app.add_typer(replay_app, name="replay")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text for people.")]
InputFile = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE.jsonl", help="Events, one JSON object a line.")
]


class Role(StrEnum):
    """The parts of `pipeline.app`, which takes a moment to import."""

    SESSIONIZE = "sessionize"
    IDENTIFY = "identify"
    RECORD = "record"


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


@app.command()
def resolve(
    file: InputFile,
    policy: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Policy file; otherwise the defaults.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Overrides one policy: identity.rebind=move_all.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON: it always does.")] = True,  # noqa: ARG001 - as all have it
) -> None:
    """Compute contacts, links, sessions and event owners of a file: no Kafka, no ClickHouse."""
    from pipeline.policy_file import load_policy
    from pipeline.resolve import resolve_file

    sys.stdout.buffer.write(resolve_file(file, load_policy(policy, set_ or (), setting="--policy")))


@app.command()
def publish(file: InputFile, json: Json = False) -> None:
    """Check the events of a file and publish them to the raw topics; refused lines go to the dead letters."""
    from pipeline import output
    from pipeline.publish import publish as publish_file

    settings = _settings("publish")
    with output.publishing() as progress:
        counts = publish_file(settings, file, progress)
    output.counts(counts.published, counts.refused, as_json=json)


@app.command()
def worker(
    role: Annotated[Role, typer.Argument(help="Which part to run.")],
    instance: Annotated[str | None, typer.Option(help="Name among the processes of this role: 0, 1, 2 ... (worker.instance).")] = None,
    generation: Annotated[int | None, typer.Option(min=1, help="Generation to work for (see `replay`); otherwise the first.")] = None,
    parent: Annotated[int | None, typer.Option(hidden=True, help="End when this process, our parent, ends.")] = None,
) -> None:
    """Run one part of the pipeline until it is stopped."""
    if parent is not None:
        from pipeline.supervise import die_with

        die_with(parent)
    from pipeline.app import run_part

    settings = _settings(instance=instance)
    if generation is not None:
        from pipeline.replay import registry

        settings = registry.worker_settings(settings, generation)
    raise typer.Exit(run_part(settings.acting_as(role), role) or 0)


@app.command()
def run(
    workers: Annotated[int, typer.Option(min=1, help="Processes of each part.")] = 1,
    edge: Annotated[bool, typer.Option("--edge", help="Run the collector too.")] = False,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run every part on this machine, with the embedded servers if no others are set; Ctrl-C stops all."""
    if parent is not None:
        from pipeline.supervise import die_with

        die_with(parent)
    from pipeline import one_machine

    raise typer.Exit(one_machine.run(_settings(), workers, edge=edge))


@edge_app.callback(invoke_without_command=True)
def edge(
    context: typer.Context,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the port.")] = 1,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the collector until it is stopped: hits, forms and tracked links become raw events. SIGHUP reads the portals again."""
    if context.invoked_subcommand is not None:
        return
    if parent is not None:
        from pipeline.supervise import die_with

        die_with(parent)
    from pipeline.edge.serve import PART, serve

    raise typer.Exit(serve(_settings(PART if processes == 1 else None), processes))


@edge_app.command("check")
def check_page(url: Annotated[str, typer.Argument(help="Address of a page of your site.")], json: Json = False) -> None:
    """Tell whether a page carries the script rightly; exit code 1 if not."""
    from pipeline import output
    from pipeline.edge import portals
    from pipeline.edge.check import check

    findings = check(url, portals.load(_settings().edge.portals_file))
    if json:
        output.print_json([finding._asdict() for finding in findings])
    else:
        print("\n".join(f"{'✓' if finding.good else '✗'} {finding.said}" for finding in findings))
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)


@app.command()
def link(
    portal: Annotated[int, typer.Option(min=1, help="Portal id.")],
    recipient: Annotated[str, typer.Option(help="Address that the mail goes to.")],
    send: Annotated[str, typer.Option(help="Name of the mailing.")],
    url: Annotated[str, typer.Option(help="Where the link leads.")],
    host: Annotated[str | None, typer.Option(help="Origin of a collector; otherwise the portal's first.")] = None,
) -> None:
    """Print a tracked link for a mail: following it is a click of its recipient."""
    from pipeline.edge.linking import tracked_link

    print(tracked_link(_portal(portal), recipient, send, url, host=host))


@app.command()
def debug(portal: Annotated[int, typer.Option(min=1, help="Portal id.")], json: Json = False) -> None:
    """Show a portal's events as they are accepted, until Ctrl-C. What is shown is personal."""
    from pipeline.edge import debug as showing

    for event in showing.accepted(_settings(), portal):
        print(showing.as_json(event) if json else showing.in_words(event), flush=True)


@app.command()
def timeline(
    portal: Annotated[int, typer.Option(min=1, help="Portal id.")],
    email: Annotated[str | None, typer.Option(help="Address of the contact, present or former.")] = None,
    contact: Annotated[str | None, typer.Option(help="Contact id.")] = None,
    utk: Annotated[str | None, typer.Option(help="Visitor cookie.")] = None,
    json: Json = False,
) -> None:
    """Print a contact's timeline: what, when, in which session, and why it is this contact's."""
    if sum(given is not None for given in (email, contact, utk)) != 1:
        raise UsageError("name one of --email, --contact and --utk")
    from pipeline import output, timelines

    output.timeline(timelines.timeline(_settings(), portal, email=email, contact=contact, utk=utk), as_json=json)


@app.command()
def explain(
    event: Annotated[str | None, typer.Option(help="Event id.")] = None,
    utk: Annotated[str | None, typer.Option(help="Visitor cookie.")] = None,
    contact: Annotated[str | None, typer.Option(help="Contact id.")] = None,
    portal: Annotated[int | None, typer.Option(min=1, help="Portal id; needed only if several portals have such a one.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Say also what would be under another policy: identity.rebind=move_all."),
    ] = None,
    json: Json = False,
) -> None:
    """Tell why an event, a cookie or a contact is whose it is: every piece of evidence, its rule, and what it did."""
    from pipeline import explain as explaining
    from pipeline import explained_words, output

    asked = explaining.subject(event, utk, contact)
    shown = explaining.explain(_settings(), asked, portal, set_ or ())
    if json:
        output.print_json(explaining.as_json(shown))
    else:
        print("\n".join(explained_words.in_words(shown)))


@app.command()
def status(
    wait: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="Wait until everything published before now is in ClickHouse; exit code 1 if it takes longer."
        ),
    ] = None,
    generation: Annotated[int | None, typer.Option(min=1, help="Generation (see `replay`); otherwise the one that readers see.")] = None,
    json: Json = False,
) -> None:
    """Print how far each part is behind, its last commit, and what was refused."""
    from pipeline import catching_up, output
    from pipeline import status as reading
    from pipeline.replay import registry

    settings = _settings("status")
    settings = registry.last_live(settings) if generation is None else registry.worker_settings(settings, generation)
    behind = catching_up.wait(settings, wait) if wait is not None else None
    output.status(reading.status(settings), as_json=json)
    if behind:
        raise UserError(f"not caught up after {wait:g} s: {behind}")


@app.command()
def config(json: Json = False) -> None:
    """Print every setting in effect and where it comes from; secrets are masked."""
    from pipeline import output
    from pipeline.effective import effective

    output.settings(effective(_settings()), as_json=json)


@app.command()
def migrate() -> None:
    """Bring the ClickHouse tables and views up to date."""
    from pipeline import output
    from pipeline.replay import registry, views

    settings = _settings()
    following = registry.read(settings).following
    output.done("applied", [name for each in following for name in views.migrate(settings.of_generation(each.number))])


@topics_app.command("create")
def create_topics() -> None:
    """Create the topics that are missing."""
    from pipeline import output
    from pipeline.adapters import topics
    from pipeline.replay import registry

    output.done("created", [name for settings in registry.all_settings(_settings()) for name in topics.create_topics(settings)])


@topics_app.command("check")
def check_topics() -> None:
    """Compare the topics with topics/*.yaml; exit code 1 if one is missing or different."""
    from pipeline.adapters import topics
    from pipeline.replay import registry

    for settings in registry.all_settings(_settings()):
        topics.check_topics(settings)
    print("every topic is as its contract says")


@topics_app.command("acls")
def grant_rights(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    json: Json = False,
) -> None:
    """Grant each part what topics/*.yaml says it needs in Kafka, and take away what it does not need."""
    from pipeline import output
    from pipeline.adapters import acls

    output.rights(acls.apply_rights(_settings(), dry_run=dry_run), dry_run=dry_run, as_json=json)


Reason = Annotated[str | None, typer.Option(help="Only letters of this reason (malformed_avro, unknown_schema ...).")]
Topic = Annotated[str | None, typer.Option(help='Only records that stood in this topic; "" for lines that publish refused.')]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Only what was refused then or later: RFC 3339 or epoch milliseconds.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only what was refused before.")]


@letters_app.command("stats")
def letter_stats(json: Json = False) -> None:
    """Count the dead letters by reason, topic and part."""
    from pipeline import letters, output

    output.letter_stats(letters.stats(_settings("dead-letters")), as_json=json)


@letters_app.command("list")
def list_letters(
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="Most letters to show, the newest.")] = 50,
    json: Json = False,
) -> None:
    """List dead letters, without what they contain."""
    from pipeline import letters, output

    which = letters.Which(reason, topic, letters.moment(since), letters.moment(until))
    output.letters(letters.newest(_settings("dead-letters"), which, limit), as_json=json)


@letters_app.command("show")
def show_letter(
    place: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="Of the letter, as `dead-letters list` shows it.")],
    json: Json = False,
) -> None:
    """Show one dead letter with the bytes that were refused, which may be personal."""
    from pipeline import letters, output

    output.letter(letters.letter_at(_settings("dead-letters"), place), as_json=json)


@letters_app.command("requeue")
def requeue_letters(
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; otherwise only say what would happen.")] = False,
    json: Json = False,
) -> None:
    """Put letters back that can be events by now, into the topics that they came from."""
    from pipeline import letters, output

    which = letters.Which(reason, topic, letters.moment(since), letters.moment(until))
    output.requeued(letters.requeue(_settings("dead-letters"), which, dry_run=not yes), dry_run=not yes, as_json=json)


Policy = Annotated[
    Path | None, typer.Option(metavar="FILE.toml", help="Policy of the new generation; otherwise that of the settings (policy_file).")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Overrides one policy: identity.rebind=move_all.")]


@replay_app.command("start")
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
    set_: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much it is, and about how long it would take.")] = False,
    json: Json = False,
) -> None:
    """Rebuild everything from the raw topics in a new generation, beside what readers see; goes on where a killed one stopped."""
    from pipeline import letters
    from pipeline.policy_file import load_policy
    from pipeline.replay import estimate, printing, start

    settings = _settings()
    given = load_policy(policy or settings.policy_file, set_ or (), setting="--policy" if policy else "policy_file")
    moment = letters.moment(since)
    if dry_run:
        printing.estimate(estimate.estimate(settings, moment, given), as_json=json)
        return
    with printing.rebuilding() as (begun, progress):
        built = start.start(settings, start.Wish(given if policy or set_ else None, moment), begun, progress)
    printing.built(built, as_json=json)


@replay_app.command("status")
def replay_status(json: Json = False) -> None:
    """List the generations: their policy, how far they are, and which one readers see."""
    from pipeline.replay import printing
    from pipeline.replay.overview import overview

    printing.generations(overview(_settings()), as_json=json)


@replay_app.command("diff")
def replay_diff(
    generation: Annotated[int | None, typer.Argument(min=1, help="Generation; otherwise the newest other one.")] = None,
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
    json: Json = False,
) -> None:
    """Tell what a switch would change for readers: contacts, links, sessions, and whose events are, by rule, with examples."""
    if generation is not None and with_ is not None:
        raise UsageError("name a generation or --with, not both")
    from pipeline.replay import diff, printing, what_if

    if with_ is None:
        printing.diff(diff.diff(_settings(), generation), as_json=json)
    else:
        printing.what_if(what_if.what_if(_settings(), with_), as_json=json)


@replay_app.command("switch")
def switch_generation(
    generation: Annotated[int | None, typer.Argument(min=1, help="Generation; otherwise the newest other one.")] = None,
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long it may take to catch up.")] = 60,
) -> None:
    """Have readers see another generation, all at once; the one before goes on, and can be switched back to."""
    from pipeline.replay import lifecycle

    print(f"readers see generation {lifecycle.switch(_settings(), generation, wait)}")


@replay_app.command("drop")
def drop_generation(generation: Annotated[int, typer.Argument(min=1, help="Generation that nobody needs any more.")]) -> None:
    """Delete a generation that readers do not see: its topics, groups and tables."""
    from pipeline.replay import lifecycle

    lifecycle.drop(_settings(), generation)
    print(f"nothing is left of generation {generation}")


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running, for a look around.")] = False,
) -> None:
    """Play a day of real traffic and a few visitors through the whole pipeline, on servers of its own."""
    from infra.demo.play import play

    play(keep=keep)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command (`sys.argv` by default) and returns its exit code."""
    return guarded(app, "python -m pipeline", arguments)


def guarded(commands: Callable[..., object], name: str, arguments: Sequence[str] | None = None) -> int:
    """The exit code of a typer application. What a user can mend is a message, not a traceback."""
    try:
        commands(args=None if arguments is None else list(arguments), prog_name=name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:  # noqa: BLE001 - the outermost frame: a bug ends the process, with all there is to know
        traceback.print_exception(error.with_traceback(_from_the_command_on(error.__traceback__)))
        print("error: a bug in the pipeline; please report it with the lines above", file=sys.stderr)
        return 1
    return 0


def end(code: int) -> NoReturn:
    """Ends the process now. A destructor of librdkafka may wait for ever for a broker that is gone; what matters was flushed before."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _from_the_command_on(trace: TracebackType | None) -> TracebackType | None:
    """The frames below those of the command line's library, which are always the same."""
    ours, at = trace, trace
    while at is not None:
        if at.tb_frame.f_globals.get("__name__", "").startswith("typer"):
            ours = at.tb_next
        at = at.tb_next
    return ours


def _portal(portal: int) -> "Portal":
    from pipeline.core.events import PortalId
    from pipeline.edge import portals

    settings = _settings()
    found = portals.load(settings.edge.portals_file).get(PortalId(portal))
    if found is None:
        raise UsageError(f"portal {portal} is not in {settings.edge.portals_file} (edge.portals_file)")
    return found


def _settings(principal: str | None = None, instance: str | None = None) -> "Settings":
    """Of this process, with the credentials of that principal for Kafka; an administrator's without."""
    from pipeline import logs
    from pipeline import settings as reading

    settings = reading.load(**({} if instance is None else {"worker": {"instance": instance}}))
    logs.configure(settings.log)
    return settings.acting_as(principal) if principal else settings
