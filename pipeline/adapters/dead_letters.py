"""Dead letters: what could not become an event, byte for byte, with its reason and where it came from in the headers.

| header | of a record | of a line that `publish` refused |
|---|---|---|
| dlq.reason | from the closed set of outcomes.Reason | same |
| dlq.error | what is wrong, in words, without the value | same |
| dlq.topic | topic's logical name | empty |
| dlq.partition, dlq.offset | where it stood | -1, number of the line |
| dlq.timestamp | the record's, epoch milliseconds | -1 |
| dlq.part, dlq.version | which part refused it, and its version | same |
| dlq.generation | which generation refused it, if it was not the first | absent |
| dlq.size | bytes of the value, if it was too long to be kept whole | bytes of the line, likewise |

Key, value and the record's own headers stay as they were (its own come first; a line has no key), unless all together are more than Kafka
takes: of such a record the beginnings of key and value are kept, and its own headers are not. When a letter was put back
(`pipeline.letters`), a *mark* follows: `dlq.requeued`, with what tells which letter it was.
"""

import time
import tomllib
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Self

from confluent_kafka import Message

from pipeline.adapters.contracts import ROOT
from pipeline.core.outcomes import Refused

TOPIC = "dead-letters"

Headers = list[tuple[str, bytes | None]]

LONGEST = 16_000_000
"""Bytes of key, value and headers that Kafka takes (topics/dead-letters.yaml). A record may hold more, compressed ..."""
CUT = 1_000_000
"""... and is kept by so many bytes of its beginning."""


class Buried(NamedTuple):
    """A dead letter as it is written."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def bury(refused: Refused, part: str, message: Message, topic: str, generation: int = 1) -> Buried:
    """The letter of a record of this (logical) topic."""
    key, value = message.key(), message.value()
    own: Headers = list(message.headers() or ())  # type: ignore[arg-type]  # read, they are a list of pairs
    is_long = len(key or b"") + len(value or b"") + sum(len(name) + len(text or b"") for name, text in own) > LONGEST
    about = headers(
        refused,
        part,
        topic=topic,
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        timestamp=message.timestamp()[1],
        generation=generation,
        size=len(value or b"") if is_long else None,
    )
    return Buried(key and key[:CUT], value and value[:CUT], about) if is_long else Buried(key, value, own + about)


def headers(
    refused: Refused,
    part: str,
    *,
    topic: str = "",
    partition: int = -1,
    offset: int = -1,
    timestamp: int = -1,
    generation: int = 1,
    size: int | None = None,
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
    if generation > 1:
        about["dlq.generation"] = str(generation)
    if size is not None:
        about["dlq.size"] = str(size)
    return [(name, text.encode()) for name, text in about.items()]


def mark(reason: str, topic: str, stood: tuple[int, int] | None) -> Headers:
    """The headers of the mark that a letter was put back; the mark of a line has its bytes."""
    partition, offset = stood or (-1, -1)
    about = {"dlq.reason": reason, "dlq.topic": topic, "dlq.partition": str(partition), "dlq.offset": str(offset)}
    about["dlq.requeued"] = str(time.time_ns() // 1_000_000)
    return [(name, text.encode()) for name, text in about.items()]


@dataclass(frozen=True, slots=True)
class Said:
    """What the headers of a letter say, and the record's own. What is missing or odd, as somebody else may write it, is absent."""

    reason: str
    error: str
    topic: str
    partition: int | None
    offset: int | None
    timestamp: int | None
    part: str
    version: str
    generation: int
    is_cut: bool
    is_mark: bool
    own: Headers

    @classmethod
    def of(cls, headers: Headers | None) -> Self:
        """Ours are the last ones, from `dlq.reason` on: a record may have had some of these names itself."""
        headers = headers or []
        ours = max((at for at, (name, _) in enumerate(headers) if name == "dlq.reason"), default=0)
        said = {name: (text or b"").decode(errors="replace") for name, text in headers[ours:]}
        return cls(
            said.get("dlq.reason", ""),
            said.get("dlq.error", ""),
            said.get("dlq.topic", ""),
            _number(said.get("dlq.partition")),
            _number(said.get("dlq.offset")),
            _number(said.get("dlq.timestamp")),
            said.get("dlq.part", ""),
            said.get("dlq.version", ""),
            _number(said.get("dlq.generation")) or 1,
            "dlq.size" in said,
            "dlq.requeued" in said,
            headers[:ours],
        )

    @property
    def stood(self) -> tuple[int, int] | None:
        """Partition and offset of the record, None for a line."""
        return (self.partition or 0, self.offset or 0) if self.topic else None

    def id(self, value: bytes) -> str:
        """What failed: where the record stood, or the hash of reason and bytes of a line, which may be published twice."""
        if self.topic:
            return f"{self.topic}:{self.partition}:{self.offset}"
        return f"line:{sha256(self.reason.encode() + b'|' + value).hexdigest()}"


def _number(text: str | None) -> int | None:
    """None for what is no number, and for -1, which says that there is none."""
    try:
        return int(text) if text and int(text) >= 0 else None
    except ValueError:
        return None


_VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
