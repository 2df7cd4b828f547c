"""Topics on the broker, made from and compared with the contracts in `topics/`.

Creating is idempotent, and several processes may do it at once. What exists is never altered: a topic with another number of
partitions would spread keys differently, and one with another cleanup policy loses records, so both are refused.
"""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType  # type: ignore[attr-defined]  # not in its __all__

from pipeline.adapters import kafka
from pipeline.adapters.contracts import Topic, load_topics
from pipeline.errors import UserError
from pipeline.settings import Settings

TIMEOUT_S = 30.0
_MUST_MATCH = "cleanup.policy"
_CANNOT = {KafkaError.INVALID_REPLICATION_FACTOR, KafkaError.INVALID_CONFIG, KafkaError.POLICY_VIOLATION}


def create_topics(settings: Settings) -> list[str]:
    """Creates what is missing and checks all; returns the names created. UserError if the broker is away, refuses, or differs."""
    present = kafka.reach(settings).topics
    missing = [topic for topic in load_topics().values() if kafka.topic_name(settings, topic.name) not in present]
    created = _create(settings, missing) if missing else []
    _await(settings, missing)
    check_topics(settings)
    return created


def create_raw_topics(settings: Settings) -> None:
    """What a producer needs: everything, where one of the common topics is missing; else nothing, whatever generations there are."""
    present = kafka.reach(settings).topics
    if any(kafka.is_common(name) and kafka.topic_name(settings, name) not in present for name in load_topics()):
        create_topics(settings)


def check_topics(settings: Settings) -> None:
    """UserError naming the first topic that is missing, or has other partitions or another cleanup policy than its contract."""
    present = kafka.reach(settings).topics
    for topic in load_topics().values():
        name = kafka.topic_name(settings, topic.name)
        if name not in present:
            prefix = settings.kafka.topic_prefix
            raise UserError(f"kafka.topic_prefix is {prefix!r}: there is no topic {name}. Create it: `python -m pipeline topics create`.")
        _same(settings, topic, "partitions", str(topic.partitions), str(len(present[name].partitions)))
    for topic, configs in _configs(settings, load_topics().values()):
        _same(settings, topic, _MUST_MATCH, topic.configs[_MUST_MATCH], configs[_MUST_MATCH].value)


def _create(settings: Settings, topics: Iterable[Topic]) -> list[str]:
    """Asks for all topics at once; the names of those that it was us who created."""
    names = {kafka.topic_name(settings, topic.name): topic for topic in topics}
    wanted = [
        NewTopic(name, topic.partitions, settings.kafka.replication_factor, config=dict(topic.configs)) for name, topic in names.items()
    ]
    client = kafka.admin(settings)  # by name: without it the answers would die with it
    answers = client.create_topics(wanted, request_timeout=TIMEOUT_S)
    return [names[name].name for name, answer in answers.items() if _created(settings, names[name], answer)]


def _created(settings: Settings, topic: Topic, answer: Future[None]) -> bool:
    """Whether the topic was created; False if it was there already."""
    try:
        answer.result()
    except KafkaException as exception:
        error: KafkaError = exception.args[0]
        if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        if error.code() in _CANNOT:
            raise UserError(
                f"kafka.replication_factor is {settings.kafka.replication_factor}: the broker does not create "
                f"{kafka.topic_name(settings, topic.name)}: {error.str()}. "
                f"Set it to what the cluster can do, or create the topic as topics/{topic.name}.yaml says."
            ) from None
        raise kafka.user_error(settings, error) from None
    return True


def _await(settings: Settings, topics: Iterable[Topic]) -> None:
    """Until every partition of the new topics answers: for a moment after its creation its broker does not know that it leads it."""
    names = [kafka.topic_name(settings, topic.name) for topic in topics]
    client = kafka.admin(settings)
    deadline = time.monotonic() + TIMEOUT_S
    while names and not _answer(client, names, kafka.reach(settings).topics):
        if time.monotonic() > deadline:
            servers = settings.kafka.bootstrap_servers
            raise UserError(f"kafka.bootstrap_servers is {servers!r}: new topics have no leader after {TIMEOUT_S:.0f} s. Is a broker down?")
        time.sleep(0.1)


def _answer(client: AdminClient, names: Iterable[str], present: Mapping[str, Any]) -> bool:
    """Whether the leader of every partition of these topics says where it ends."""
    if not all(name in present for name in names):
        return False
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {TopicPartition(name, number): latest for name in names for number in present[name].partitions}
    return all(answer.exception() is None for answer in client.list_offsets(asked, request_timeout=TIMEOUT_S).values())


def _configs(settings: Settings, topics: Iterable[Topic]) -> Iterable[tuple[Topic, dict[str, Any]]]:
    """What the broker says of the topics' settings."""
    resources = {ConfigResource(ResourceType.TOPIC, kafka.topic_name(settings, topic.name)): topic for topic in topics}
    client = kafka.admin(settings)  # by name: without it the answers would die with it
    try:
        answers = client.describe_configs(list(resources), request_timeout=TIMEOUT_S)
        return [(resources[resource], answer.result()) for resource, answer in answers.items()]
    except KafkaException as exception:
        raise kafka.user_error(settings, exception.args[0]) from None


def _same(settings: Settings, topic: Topic, what: str, expected: str, found: str) -> None:
    if found != expected:
        raise UserError(
            f"kafka.topic_prefix is {settings.kafka.topic_prefix!r}: topic {kafka.topic_name(settings, topic.name)} has {what} {found}, "
            f"expected {expected} (topics/{topic.name}.yaml). Delete it or correct it there, or set another kafka.topic_prefix."
        )
