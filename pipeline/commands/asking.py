"""Questions: what somebody did and why it is theirs, how far the pipeline is, what is set."""

from typing import Annotated

import typer

from pipeline.commands import given
from pipeline.errors import UsageError, UserError


def timeline(
    portal: given.PortalNumber,
    email: Annotated[str | None, typer.Option(help="Address of the contact, present or former.")] = None,
    contact: Annotated[str | None, typer.Option(help="Contact id.")] = None,
    utk: Annotated[str | None, typer.Option(help="Visitor cookie.")] = None,
    json: given.Json = False,
) -> None:
    """Print a contact's timeline: what, when, in which session, and why it is this contact's."""
    if sum(named is not None for named in (email, contact, utk)) != 1:
        raise UsageError("name one of --email, --contact and --utk")
    from pipeline import output, timelines

    output.timeline(timelines.timeline(given.settings(), portal, email=email, contact=contact, utk=utk), as_json=json)


def explain(
    event: Annotated[str | None, typer.Option(help="Event id.")] = None,
    utk: Annotated[str | None, typer.Option(help="Visitor cookie.")] = None,
    contact: Annotated[str | None, typer.Option(help="Contact id.")] = None,
    portal: Annotated[int | None, typer.Option(min=1, help="Portal id; needed only if several portals have such a one.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Say also what would be under another policy of identity: identity.rebind=move_all."
        ),
    ] = None,
    json: given.Json = False,
) -> None:
    """Tell why an event, a cookie or a contact is whose it is: every piece of evidence, its rule, and what it did."""
    from pipeline import explain as explaining
    from pipeline import explained_words, output

    asked = explaining.subject(event, utk, contact)
    shown = explaining.explain(given.settings(), asked, portal, set_ or ())
    if json:
        output.print_json(explaining.as_json(shown))
    else:
        output.print_lines(explained_words.in_words(shown))


def status(
    wait: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="Wait until everything published before now is in ClickHouse; exit code 1 if it takes longer."
        ),
    ] = None,
    generation: Annotated[int | None, typer.Option(min=1, help="Generation (see `replay`); otherwise the one that readers see.")] = None,
    json: given.Json = False,
) -> None:
    """Print how far each part is behind, its last commit, and what was refused."""
    from pipeline import catching_up, output
    from pipeline import status as reading
    from pipeline.replay import registry

    settings = given.settings("status")
    settings = registry.last_live(settings) if generation is None else registry.worker_settings(settings, generation)
    behind = catching_up.wait(settings, wait) if wait is not None else None
    output.status(reading.status(settings), as_json=json)
    if behind:
        raise UserError(f"not caught up after {wait:g} s: {behind}")


def config(json: given.Json = False) -> None:
    """Print every setting in effect and where it comes from; secrets are masked."""
    from pipeline import output
    from pipeline.effective import effective

    output.settings(effective(given.settings()), as_json=json)
