"""The README says what is so."""

import re
from pathlib import Path

from pydantic import SecretStr

from pipeline import settings
from pipeline.settings_sources import variable

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_settings_table_is_complete() -> None:
    """The table names every setting with its default and its description, and nothing else."""
    assert settings_table() in README


def test_linked_files_exist() -> None:
    """Every file that the README, CONTRIBUTING and CHANGELOG link to exists."""
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            assert (ROOT / target).exists(), f"{document} links to {target}"


def settings_table() -> str:
    """The table as it should be; paste it when a setting was added."""
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for name, field in settings.fields():
        rows.append(f"| `{name}` | {_default(name)} | {field.description} |")
    return "\n".join(rows)


def _default(name: str) -> str:
    value = dict(settings.values(settings.Settings.model_construct()))[name]
    shown = value.get_secret_value() if isinstance(value, SecretStr) else value
    if shown in ("", None, {}):
        return ""
    return "`7d`" if name == "sessions.retention" else f"`{str(shown).lower() if isinstance(shown, bool) else shown}`"


def test_variable_names() -> None:
    """The README's example of a variable is one."""
    assert variable("kafka.bootstrap_servers") in README
