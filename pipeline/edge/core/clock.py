"""The browser's clock is a claim (spec: edge.md, "Collector")."""

from pipeline.core import normalise
from pipeline.core.events import Millis

_DAY = 86_400_000
FUTURE = _DAY
PAST = 31 * _DAY


def corrected(occurred_at: object, sent_at: object, received_at: Millis) -> tuple[Millis, str | None]:
    """When something happened by the server's clock, and a mark if the browser could not be believed.

    The browser's time is moved by what its clock differs from ours at the time of sending. A time that is none, lies more
    than a day in the future or more than 31 days in the past is `received_at`.
    """
    occurred, sent = normalise.timestamp(occurred_at), normalise.timestamp(sent_at)
    if occurred is None:
        return received_at, "missing" if occurred_at is None else "out_of_range"
    moment = Millis(occurred + (received_at - sent if sent is not None else 0))
    if not received_at - PAST <= moment <= received_at + FUTURE:
        return received_at, "out_of_range"
    return moment, None
