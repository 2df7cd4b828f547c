"""Where settings come from besides the environment, and what to say when one of them is wrong."""

import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from pipeline.errors import UsageError

PREFIX = "PIPELINE_"
FILE_VARIABLE = "PIPELINE_CONFIG"
"""Names the TOML file; not a setting itself."""
NO_FILE = os.devnull
DEFAULT_FILE = Path("pipeline.toml")
SERVERS_FILE = "servers.json"
"""In the data directory, while embedded servers run."""
_TABLES = (".options", ".principals")
"""Settings with entries of any name."""
SECRET_WORDS = ("password", "secret", "key", "token", "jaas")


def variable(name: str) -> str:
    """`kafka.options` -> `PIPELINE_KAFKA__OPTIONS`."""
    return PREFIX + name.upper().replace(".", "__")


def is_secret(name: str) -> bool:
    """Whether the value of a setting or a client option of this name must not be shown."""
    return any(word in name.lower() for word in SECRET_WORDS)


def secret_in(name: str, path: str | Path) -> str:
    """The content of a file, without the newline at its end. ValueError naming the setting if there is none."""
    try:
        secret = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"{name} names {path}, which cannot be read: {reason}") from None
    if not secret:
        raise ValueError(f"{name} names {path}, which is empty")
    return secret


class _Source(PydanticBaseSettingsSource):
    """A source that reads everything at once."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # never called: __call__ answers for all fields

    def __call__(self) -> dict[str, Any]:
        return self.read()

    def read(self) -> dict[str, Any]:
        raise NotImplementedError


class TomlFile(_Source):
    """`pipeline.toml`, if it exists, or the file that PIPELINE_CONFIG names, which must. UsageError if it cannot be read."""

    @staticmethod
    def path() -> Path | None:
        named = os.environ.get(FILE_VARIABLE)
        if named == NO_FILE:
            return None
        if named:
            return Path(named)
        return DEFAULT_FILE if DEFAULT_FILE.exists() else None

    def read(self) -> dict[str, Any]:
        path = self.path()
        if path is None:
            return {}
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"settings file {path} ({FILE_VARIABLE}) does not exist: create it or unset {FILE_VARIABLE}") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"settings file {path} cannot be read: {error}") from None


class EmbeddedServers(_Source):
    """What `embedded` finds, given what the sources before this one say."""

    def read(self) -> dict[str, Any]:
        given = self.current_state
        return embedded(given, Path(given.get("data_dir") or self.settings_cls.model_fields["data_dir"].default))


def embedded(given: Mapping[str, Any], data_dir: Path) -> dict[str, Any]:
    """Addresses and users of the embedded servers that run in `data_dir`; of each server only if `given` has no address for it."""
    try:
        servers = json.loads((data_dir / SERVERS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(servers, dict):
        return {}
    found: dict[str, Any] = {}
    if "bootstrap_servers" not in _section(given, "kafka"):
        found["kafka"] = _known(servers, "kafka", ("bootstrap_servers", "options", "principals"))
    if not {"host", "port"} & set(_section(given, "clickhouse")):
        found["clickhouse"] = _known(servers, "clickhouse", ("host", "port", "user", "password", "analyst_user", "analyst_password"))
    return {name: section for name, section in found.items() if section}


def _section(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = state.get(name)
    if isinstance(section, Mapping):
        return section
    return section.model_dump(exclude_unset=True) if section is not None and hasattr(section, "model_dump") else {}


def _known(servers: Mapping[str, Any], name: str, keys: Sequence[str]) -> dict[str, Any]:
    """What the file says of one server, if it still runs: after a kill -9 or a reboot the file is there, and the server is not."""
    section, pid = _section(servers, name), _section(servers, "pids").get(name)
    if pid is not None and not Path(f"/proc/{pid}").exists():
        return {}
    return {key: section[key] for key in keys if section.get(key) is not None}


def refuse_unknown_variables(names: Sequence[str]) -> None:
    """UsageError for a variable that begins with PIPELINE_ and is no setting: a misspelt one would be silently ignored."""
    allowed = {variable(name) for name in names} | {variable(name.partition(".")[0]) for name in names} | {FILE_VARIABLE}
    for given in sorted(os.environ):
        upper = given.upper()
        if upper.startswith(PREFIX) and upper not in allowed and not upper.startswith(_open_ended(allowed)):
            raise UsageError(
                f"unknown setting {given} in the environment{hint(upper, allowed)}; unset it, or see `python -m pipeline config`"
            )


def _open_ended(allowed: Iterable[str]) -> tuple[str, ...]:
    """Settings that are tables: any name may follow."""
    return tuple(f"{name}__" for name in allowed if name.endswith(("__OPTIONS", "__PRINCIPALS")))


def explanation_of_json(names: Sequence[str]) -> str:
    """Which variables should have held JSON: those that stand for a table of options, or for a whole section."""
    tables = {variable(name) for name in names if name.endswith(_TABLES)} | {
        variable(name.partition(".")[0]) for name in names if "." in name
    }
    wrong = [name for name in sorted(os.environ) if name.upper() in tables and not _is_object(os.environ[name])]
    return f'setting {" and ".join(wrong)}: expected a JSON object, such as {{"security.protocol": "SASL_SSL"}}'


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def explanation(error: ValidationError, names: Sequence[str]) -> str:
    """Each mistake on a line of its own: the setting, its value if that is no secret, where it was set, what is expected."""
    return "\n".join(_lines(error, names))


def _lines(error: ValidationError, names: Sequence[str]) -> Iterator[str]:
    for mistake in error.errors():
        name = ".".join(str(part) for part in mistake["loc"])
        if mistake["type"] == "extra_forbidden":
            yield f"unknown setting {name}{hint(name, names)}{_where(name)}"
            continue
        reason = mistake["msg"].removeprefix("Value error, ")
        yield f"setting {name}{_value(name, mistake['input'], names)}{_where(name)}: {reason[:1].lower() + reason[1:]}"


def _value(name: str, given: object, names: Sequence[str]) -> str:
    """What was given, unless it is a secret, or may contain one: a whole section, a table of options."""
    if name not in names or name.endswith(_TABLES):
        return ""
    return " = ***" if is_secret(name) else f" = {given!r}"


def _where(name: str) -> str:
    given = {key.upper(): key for key in os.environ}
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        found = given.get(variable(".".join(parts[:length])))
        if found:
            return f" (from {found})"
    entries = [given[key] for key in sorted(given) if name.endswith(_TABLES) and key.startswith(variable(name) + "__")]
    path = TomlFile.path()
    sources = [*entries, str(path)] if path is not None else entries
    return f" (from {' or '.join(sources)})" if sources else ""


def hint(name: str, candidates: Iterable[str]) -> str:
    """The closest of the candidates, as a question; empty if none is close."""
    close = get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else ""
