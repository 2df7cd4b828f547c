"""What the demo publishes, and in which order: first all that happened before anybody said who they are, then the forms."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from infra.demo import nasa, visitors

Json = dict[str, Any]

HOST = "gn2.getnet.com"
"""A reader of the day's log who came twice; in the demo they sign up for launch alerts at the end of the second visit."""
EMAIL = "gus@getnet.example"


@dataclass(frozen=True, slots=True)
class Script:
    """`history` comes first and at once, then each of `forms`; `examples` are the titles of the visitors' portals."""

    history: tuple[Json, ...]
    forms: tuple[Json, ...]
    examples: dict[int, str]

    @property
    def sign_up(self) -> Json:
        """The form of the visitor from the log."""
        return self.forms[0]


def script() -> Script:
    """The same events each time, with the same ids."""
    views = list(nasa.page_views())
    sign_up = visitors.signs_up([view for view in views if view["utk"] == nasa.utk(HOST)], EMAIL)
    played = list(visitors.examples())
    acted = [event for example in played for event in example.events]
    forms = sorted((event for event in acted if event["type"] == "form_submission"), key=lambda event: event["occurred_at"])
    others = [event for event in acted if event["type"] != "form_submission"]
    return Script((*views, *others), (sign_up, *forms), {example.portal: example.title for example in played})


def write(events: Iterable[Json], path: Path) -> Path:
    """The events as a file of JSON lines."""
    path.write_bytes(b"".join(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events))
    return path
