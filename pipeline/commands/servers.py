"""What must be there in Kafka and ClickHouse: topics, rights, tables and views."""

from typing import Annotated

import typer

from pipeline.commands import given

topics_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The Kafka topics of topics/*.yaml.")


def migrate() -> None:
    """Bring the ClickHouse tables and views up to date."""
    from pipeline import output
    from pipeline.replay import registry, views

    settings = given.settings()
    following = registry.read(settings).following
    output.done("applied", [name for each in following for name in views.migrate(settings.of_generation(each.number))])


@topics_app.command("create")
def create_topics() -> None:
    """Create the topics that are missing."""
    from pipeline import output
    from pipeline.adapters import topics
    from pipeline.replay import registry

    output.done("created", [name for settings in registry.all_settings(given.settings()) for name in topics.create_topics(settings)])


@topics_app.command("check")
def check_topics() -> None:
    """Compare the topics with topics/*.yaml; exit code 1 if one is missing or different."""
    from pipeline.adapters import topics
    from pipeline.replay import registry

    for settings in registry.all_settings(given.settings()):
        topics.check_topics(settings)
    print("every topic is as its contract says")


@topics_app.command("acls")
def grant_rights(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    json: given.Json = False,
) -> None:
    """Grant each part what topics/*.yaml says it needs in Kafka, and take away what it does not need."""
    from pipeline import output
    from pipeline.adapters import acls

    output.rights(acls.apply_rights(given.settings(), dry_run=dry_run), dry_run=dry_run, as_json=json)
