"""Which topic it is: Kafka gives each topic an id when it is made (KIP-516), so one that was made anew has another.

Offsets mean nothing without it. That a topic was made anew shows by its end only while it is shorter than it was, and Kafka forgets what a
group has committed of a topic together with the topic: so whoever remembers offsets keeps the id beside them.
"""

from collections.abc import Collection, Mapping

from confluent_kafka import KafkaError, KafkaException, TopicCollection, Uuid

from pipeline.adapters import kafka
from pipeline.adapters.changelog import patiently
from pipeline.logs import logger
from pipeline.settings import Settings

_TIMEOUT_S = 10.0
_NONE = str(Uuid(0, 0))
"""What a broker says that does not know of ids (Kafka before 2.8)."""
_NOT_THERE = {KafkaError.UNKNOWN_TOPIC_OR_PART}

log = logger("topics")


def topic_ids(settings: Settings, topics: Collection[str]) -> dict[str, str]:
    """The ids of topics, both by logical name; a topic that is not there or has none is left out. Waits while Kafka is away.

    UserError if the broker does not tell us.
    """
    names = {kafka.topic_name(settings, topic): topic for topic in topics}
    client = kafka.admin(settings)  # by name: without it the answers would die with it
    found: dict[str, str] = {}

    def ask() -> None:
        for name, answer in client.describe_topics(TopicCollection(list(names)), request_timeout=_TIMEOUT_S).items():
            try:
                found[names[name]] = str(answer.result().topic_id)
            except KafkaException as exception:
                if exception.args[0].code() not in _NOT_THERE:
                    raise

    try:
        patiently(log, ask, "asking which topics these are")
    except KafkaException as exception:
        raise kafka.user_error(settings, exception.args[0], "describe its topics") from None
    return {topic: id_ for topic, id_ in found.items() if id_ != _NONE}


def made_anew(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Topics that are known in both and are not the same."""
    return sorted(topic for topic in before.keys() & now.keys() if before[topic] != now[topic])
