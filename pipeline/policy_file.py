"""The policy that a file and the command line give (spec: timeline.md, "Policy file")."""

import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.core.policy import Policy, PolicyError, parse_policy
from pipeline.errors import UsageError


def as_toml(policy: Policy) -> str:
    """The whole policy as a policy file."""
    lines: list[str] = []
    for section, values in policy.as_dict().items():
        lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def load_policy(path: Path | None = None, overrides: Iterable[str] = (), setting: str = "policy_file") -> Policy:
    """The defaults, the TOML file at `path` over them, `section.name=value` overrides over both.

    UsageError if the file cannot be read (`setting` says what named it) or says something that no policy has.
    """
    try:
        text = "" if path is None else path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"policy file {path} ({setting}) does not exist: create it, or name another one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"policy file {path} ({setting}) cannot be read: {error}") from None
    try:
        return parse_policy(text, overrides, source=str(path))
    except PolicyError as error:
        raise UsageError(str(error)) from None
