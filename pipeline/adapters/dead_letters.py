"""Dead letters: what could not become an event, byte for byte, with its reason and where it came from in the headers.

| header | of a record | of a line that `publish` refused |
|---|---|---|
| dlq.reason | from the closed set of outcomes.Reason | same |
| dlq.error | what is wrong, in words, without the value | same |
| dlq.topic | topic's logical name | empty |
| dlq.partition, dlq.offset | where it stood | -1, number of the line |
| dlq.timestamp | the record's, epoch milliseconds | -1 |
| dlq.part, dlq.version | which part refused it, and its version | same |
| dlq.size | absent | bytes of the line, if it was too long to be kept whole |

Key, value and the record's own headers stay as they were (its own come first; a line has no key).
"""

import tomllib
from collections.abc import Sequence

from pipeline.adapters.contracts import ROOT
from pipeline.core.outcomes import Refused

TOPIC = "dead-letters"

Headers = list[tuple[str, bytes | None]]


def headers(
    refused: Refused,
    part: str,
    *,
    topic: str = "",
    partition: int = -1,
    offset: int = -1,
    timestamp: int = -1,
    size: int | None = None,
    original: Sequence[tuple[str, bytes | None]] = (),
) -> Headers:
    """The headers of a dead letter. `topic` is logical; empty for a line, whose number is then the offset."""
    about = {
        "dlq.reason": refused.reason.value,
        "dlq.error": refused.detail,
        "dlq.topic": topic,
        "dlq.partition": str(partition),
        "dlq.offset": str(offset),
        "dlq.timestamp": str(timestamp),
        "dlq.part": part,
        "dlq.version": _VERSION,
    }
    if size is not None:
        about["dlq.size"] = str(size)
    return [*original, *((name, text.encode()) for name, text in about.items())]


_VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
