"""Dead letters: what was refused."""

from typing import Annotated

import typer

from pipeline.commands import given

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What was refused: count it, look at it, put it back.")
Reason = Annotated[str | None, typer.Option(help="Only letters of this reason (malformed_avro, unknown_schema ...).")]
Topic = Annotated[str | None, typer.Option(help='Only records that stood in this topic; "" for lines that publish refused.')]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Only what was refused then or later: RFC 3339 or epoch milliseconds.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only what was refused before.")]


@app.command("stats")
def letter_stats(json: given.Json = False) -> None:
    """Count the dead letters by reason, topic and part."""
    from pipeline import letters, output

    output.letter_stats(letters.stats(given.settings("dead-letters")), as_json=json)


@app.command("list")
def list_letters(
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="Most letters to show, the newest.")] = 50,
    json: given.Json = False,
) -> None:
    """List dead letters, without what they contain."""
    from pipeline import letters, output

    which = letters.Which(reason, topic, letters.moment(since), letters.moment(until))
    output.letters(letters.newest(given.settings("dead-letters"), which, limit), as_json=json)


@app.command("show")
def show_letter(
    place: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="Of the letter, as `dead-letters list` shows it.")],
    json: given.Json = False,
) -> None:
    """Show one dead letter with the bytes that were refused, which may be personal."""
    from pipeline import letters, output

    output.letter(letters.letter_at(given.settings("dead-letters"), place), as_json=json)


@app.command("requeue")
def requeue_letters(
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; otherwise only say what would happen.")] = False,
    json: given.Json = False,
) -> None:
    """Put letters back that can be events by now, into the topics that they came from."""
    from pipeline import letters, output

    which = letters.Which(reason, topic, letters.moment(since), letters.moment(until))
    output.requeued(letters.requeue(given.settings("dead-letters"), which, dry_run=not yes), dry_run=not yes, as_json=json)
