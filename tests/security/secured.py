"""Settings of the secured servers, and settings that are wrong on purpose."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from infra.servers import Servers
from pipeline.settings import Settings


def settings_of(servers: Servers, data_dir: Path = Path(".data")) -> Settings:
    """An administrator's, with the credentials of every part."""
    at = {name: value for name, value in asdict(servers.clickhouse).items() if name not in ("http_port", "portal_analysts")}
    return Settings.model_validate({"kafka": asdict(servers.kafka), "clickhouse": at, "data_dir": data_dir})


def as_analyst(settings: Settings, servers: Servers, portal: int | None = None) -> Settings:
    """The same, with the user and password of the analyst, or of that portal's."""
    at = servers.clickhouse
    login = {"user": at.analyst_user, "password": at.analyst_password} if portal is None else at.portal_analysts[str(portal)]
    update = {"user": login["user"], "password": SecretStr(login["password"])}
    return settings.model_copy(update={"clickhouse": settings.clickhouse.model_copy(update=update)})


def changed(settings: Settings, **kafka: Any) -> Settings:
    return settings.model_copy(update={"kafka": settings.kafka.model_copy(update=kafka)})


def with_options(settings: Settings, principal: str, **options: str) -> Settings:
    """The part has these options over its own: `sasl_password="wrong"`."""
    own = settings.kafka.principals[principal] | {name.replace("_", "."): value for name, value in options.items()}
    return changed(settings, principals=settings.kafka.principals | {principal: own})


def posing_as(settings: Settings, principal: str, other: str) -> Settings:
    """`principal` comes with the credentials of `other`."""
    return changed(settings, principals=settings.kafka.principals | {principal: settings.kafka.principals[other]})
