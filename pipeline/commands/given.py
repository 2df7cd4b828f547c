"""What commands are given: the arguments that several of them have, and the settings of this process."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.settings import Settings

InputFile = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE.jsonl", help="Events, one JSON object a line.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text for people.")]
PortalNumber = Annotated[int, typer.Option(min=1, max=2**63 - 1, help="Portal id.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Overrides one policy: identity.rebind=move_all.")]
Parent = Annotated[int | None, typer.Option(hidden=True, help="End when this process, our parent, ends.")]


def heed(parent: int | None) -> None:
    """Ends this process when the one that started it ends, if it said so."""
    if parent is not None:
        from pipeline.supervise import die_with

        die_with(parent)


def settings(principal: str | None = None, instance: str | None = None) -> "Settings":
    """Of this process, with the credentials of that principal for Kafka; an administrator's without."""
    from pipeline import logs
    from pipeline import settings as reading

    found = reading.load(**({} if instance is None else {"worker": {"instance": instance}}))
    logs.configure(found.log)
    return found.acting_as(principal) if principal else found
