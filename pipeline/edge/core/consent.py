"""What a visitor allowed (spec: edge.md, "Consent"). The browser's answer is a claim, judged by the portal's present configuration."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Mode(StrEnum):
    """How a portal asks."""

    OFF = "off"
    NOTIFY = "notify"
    OPT_IN = "opt_in"
    OPT_IN_CATEGORIES = "opt_in_categories"
    OPT_OUT = "opt_out"


class Consent(NamedTuple):
    analytics: bool
    advertisement: bool
    functionality: bool


CATEGORIES = Consent._fields
ALL = Consent(analytics=True, advertisement=True, functionality=True)
NOTHING = Consent(analytics=False, advertisement=False, functionality=False)

_UNASKED = {Mode.OFF: ALL, Mode.NOTIFY: ALL, Mode.OPT_IN: NOTHING, Mode.OPT_IN_CATEGORIES: NOTHING, Mode.OPT_OUT: ALL}
"""What holds for a visitor who has not answered."""
_OBJECTED = {mode: state._replace(advertisement=False) for mode, state in _UNASKED.items()}
_OBJECTED[Mode.OPT_OUT] = Consent(analytics=False, advertisement=False, functionality=True)
"""The same for one whose browser objects: Global Privacy Control or Do Not Track."""


def consent(mode: Mode, claim: object, *, objects: bool) -> Consent:
    """The state of a visitor. `claim` holds the explicit answers by category (true or false), which outrank the browser."""
    unasked = (_OBJECTED if objects else _UNASKED)[mode]
    answers: Mapping[str, object] = claim if isinstance(claim, dict) else {}
    return Consent(*(_answer(answers.get(name), default) for name, default in zip(CATEGORIES, unasked, strict=True)))


def _answer(given: object, default: bool) -> bool:  # noqa: FBT001 - the state of one category
    return given if isinstance(given, bool) else default
