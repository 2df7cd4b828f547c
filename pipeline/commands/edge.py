"""The collector and what belongs to it: pages that carry the script, tracked links, events as they are accepted."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands import given
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.edge.core.portal import Portal

app = typer.Typer(rich_markup_mode=None, help="The collector: from browsers, forms and mails to the raw topics.")


@app.callback(invoke_without_command=True)
def edge(
    context: typer.Context,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the port.")] = 1,
    parent: given.Parent = None,
) -> None:
    """Run the collector until it is stopped: hits, forms and tracked links become raw events. SIGHUP reads the portals again."""
    if context.invoked_subcommand is not None:
        return
    given.heed(parent)
    from pipeline.edge.serve import PART, serve

    raise typer.Exit(serve(given.settings(PART if processes == 1 else None), processes))


@app.command("check")
def check_page(url: Annotated[str, typer.Argument(help="Address of a page of your site.")], json: given.Json = False) -> None:
    """Tell whether a page carries the script rightly; exit code 1 if not."""
    from pipeline import output
    from pipeline.edge import portals
    from pipeline.edge.check import check

    findings = check(url, portals.load(given.settings().edge.portals_file))
    if json:
        output.print_json([finding._asdict() for finding in findings])
    else:
        output.print_lines(f"{'✓' if finding.good else '✗'} {finding.said}" for finding in findings)
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)


def link(
    portal: given.PortalNumber,
    recipient: Annotated[str, typer.Option(help="Address that the mail goes to.")],
    send: Annotated[str, typer.Option(help="Name of the mailing.")],
    url: Annotated[str, typer.Option(help="Where the link leads.")],
    host: Annotated[str | None, typer.Option(help="Origin of a collector; otherwise the portal's first.")] = None,
) -> None:
    """Print a tracked link for a mail: following it is a click of its recipient."""
    from pipeline.edge.linking import tracked_link

    print(tracked_link(_portal(portal), recipient, send, url, host=host))


def debug(portal: given.PortalNumber, json: given.Json = False) -> None:
    """Show a portal's events as they are accepted, until Ctrl-C. What is shown is personal."""
    from pipeline import output
    from pipeline.edge import debug as showing

    for event in showing.accepted(given.settings(), portal):
        print(showing.as_json(event) if json else output.printable(showing.in_words(event)), flush=True)


def _portal(portal: int) -> "Portal":
    from pipeline.core.events import PortalId
    from pipeline.edge import portals

    settings = given.settings()
    found = portals.load(settings.edge.portals_file).get(PortalId(portal))
    if found is None:
        raise UsageError(f"portal {portal} is not in {settings.edge.portals_file} (edge.portals_file)")
    return found
