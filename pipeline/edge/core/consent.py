"""What a visitor allowed (spec: edge.md, "Consent"). The browser's answer is a claim, judged by the portal's present configuration."""

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
    if not isinstance(claim, dict):
        return unasked
    answers = [claim.get(name) for name in CATEGORIES]
    return Consent(*[given if isinstance(given, bool) else default for given, default in zip(answers, unasked, strict=True)])
