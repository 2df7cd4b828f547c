"""The settings in effect and where each comes from, without secrets: what `config` prints."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from pydantic_settings import EnvSettingsSource

from pipeline import settings_sources
from pipeline.settings import Settings, fields, names, values

MASK = "********"


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting: `source` is default, environment, file or embedded; `where` names the variable, file or directory."""

    name: str
    value: object
    source: str
    where: str | None
    description: str

    def as_dict(self) -> dict[str, object]:
        return {"value": self.value, "source": self.source, "where": self.where, "description": self.description}


def effective(settings: Settings) -> list[Effective]:
    """Every setting of `settings`, which must have been loaded from this process's environment."""
    environment = EnvSettingsSource(Settings)()
    file = settings_sources.TomlFile(Settings)()
    embedded = settings_sources.embedded(_merged(file, environment), settings.data_dir)
    origins: list[tuple[str, Mapping[str, Any], str | None]] = [
        ("environment", environment, None),
        ("file", file, str(settings_sources.TomlFile.path())),
        ("embedded", embedded, str(settings.data_dir / settings_sources.SERVERS_FILE)),
    ]
    descriptions = {name: field.description or "" for name, field in fields()}
    rows = []
    for name, value in values(settings):
        given_as = _given_as(name, [given for _, given, _ in origins])
        source, where = next(((source, where) for source, given, where in origins if _has(given, given_as)), ("default", None))
        if source == "environment":
            where = _variable(given_as)
        rows.append(Effective(name, _shown(value), source, where, descriptions[name]))
    return rows


def _given_as(name: str, sources: Iterable[Mapping[str, Any]]) -> str:
    """A secret that no source names may have come from a file that one names."""
    in_a_file = f"{name}_file" in names() and any(_has(given, f"{name}_file") for given in sources)
    return f"{name}_file" if in_a_file else name


def _merged(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """Later sources win; one level of sections is merged."""
    merged: dict[str, Any] = {}
    for source in sources:
        for name, value in source.items():
            merged[name] = {**merged.get(name, {}), **value} if isinstance(value, Mapping) else value
    return merged


def _has(given: Mapping[str, Any], name: str) -> bool:
    section, _, inner = name.partition(".")
    value = given.get(section)
    return value is not None and (not inner or (isinstance(value, Mapping) and inner in value))


def _variable(name: str) -> str:
    """The variable that sets `name`: its own, that of its whole section, or one for an entry of it."""
    wanted = settings_sources.variable(name)
    section = settings_sources.variable(name.partition(".")[0])
    given = sorted(os.environ)
    return next((key for key in given if key.upper() in (wanted, section) or key.upper().startswith(f"{wanted}__")), wanted)


def _shown(value: Any) -> object:
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    if isinstance(value, dict):
        return {
            key: MASK if settings_sources.is_secret(key) and not isinstance(entry, dict) else _shown(entry) for key, entry in value.items()
        }
    return value if isinstance(value, str | int | bool | None) else str(value)
