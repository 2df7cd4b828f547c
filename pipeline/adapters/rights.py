"""Who may do what in Kafka, as it follows from the contracts in `topics/`; the broker is told by acls.py.

| principal | may |
|---|---|
| a part | read and write the topics that name it; its consumer group; its transactions (one prefix for each changelog) |
| producer | write raw topics |
| dead-letters | read the dead letters; write them and raw topics, to put letters back |
| status | read what the parts read; see how far their groups are |

What is not granted is denied. Names of derived things are granted with whatever follows a dot, too (`sessions.g2`, group `sessionize.g2`):
so are those of further generations called. A principal's user is the `sasl.username` of its options; one without is granted nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.adapters import dead_letters, kafka
from pipeline.adapters.contracts import PARTS, RAW_TOPICS, Topic, load_topics
from pipeline.principals import PRODUCER
from pipeline.settings import Settings

CHANGELOG = "-changelog"
THE_CLUSTER = "kafka-cluster"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """`user` may do `operation` to one thing of this `kind`, or to all whose names begin with `name`. Names are the broker's."""

    user: str
    operation: str
    kind: str
    name: str
    is_prefix: bool = False


class Grant(NamedTuple):
    """The same for somebody; `name` is logical."""

    operation: str
    kind: str
    name: str
    is_prefix: bool


def rights(settings: Settings) -> frozenset[Right]:
    """All that have to be granted. Principals that share a user have each other's."""
    return frozenset(
        Right(user, operation, kind, name if kind == "cluster" else settings.kafka.topic_prefix + name, is_prefix)
        for principal, user in users(settings).items()
        for operation, kind, name, is_prefix in grants(principal)
    )


def users(settings: Settings) -> dict[str, str]:
    """Who has a user of its own, and which."""
    return {name: options["sasl.username"] for name, options in settings.kafka.principals.items() if "sasl.username" in options}


def grants(principal: str) -> set[Grant]:
    """What one principal needs; nothing for one that we do not know."""
    return set(_granted(principal, load_topics()))


def _granted(principal: str, topics: Mapping[str, Topic]) -> Iterator[Grant]:
    reads = [topic.name for topic in topics.values() if principal in topic.consumers]
    writes = [topic.name for topic in topics.values() if principal in topic.producers]
    if principal in PARTS:
        yield from _as_part(principal, reads, writes)
    elif principal == "status":
        reads = [name for name, topic in topics.items() if topic.consumers and not name.endswith(CHANGELOG)]
        groups = sorted({part for topic in topics.values() for part in topic.consumers})
        yield from (grant for part in groups for grant in _generations("describe", "group", part))
    elif principal == "dead-letters":
        reads, writes = [dead_letters.TOPIC], [*RAW_TOPICS.values(), dead_letters.TOPIC]
        yield from _generations("describe", "group", kafka.NO_GROUP)
    elif principal == PRODUCER:
        writes = [*RAW_TOPICS.values()]
    yield from _on("read", reads)
    yield from _on("write", writes)
    if writes:
        yield Grant("number records in", "cluster", THE_CLUSTER, False)  # noqa: FBT003  # brokers before 2.8 ask for it


def _as_part(part: str, reads: list[str], writes: list[str]) -> Iterator[Grant]:
    """What topics alone do not say: the group, the check of topics at the start, and transactions by the name of the changelog.

    These are `sessionize-visitors-0`, `sessionize-visitors-0.g2` or `sessionize.g2-visitors-0`.
    """
    yield from _on("see settings of", {*reads, *writes})
    if reads:
        yield from _generations("read", "group", part)
    own = [name for name in writes if name.endswith(CHANGELOG)]
    yield from (Grant("write", "transaction", prefix, True) for name in own for prefix in (name.removesuffix("changelog"), f"{part}."))  # noqa: FBT003


def _on(operation: str, topics: Iterable[str]) -> Iterator[Grant]:
    for name in topics:
        common = name in RAW_TOPICS.values() or name == dead_letters.TOPIC
        yield from [Grant(operation, "topic", name, False)] if common else _generations(operation, "topic", name)  # noqa: FBT003


def _generations(operation: str, kind: str, name: str) -> list[Grant]:
    return [Grant(operation, kind, name, False), Grant(operation, kind, f"{name}.", True)]  # noqa: FBT003
