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

from pipeline.adapters import acls, kafka
from pipeline.adapters.contracts import Topic, load_topics
from pipeline.errors import UserError
from pipeline.settings import Settings

TIMEOUT_S = 30.0
_MUST_MATCH = "cleanup.policy"
_CANNOT = {KafkaError.INVALID_REPLICATION_FACTOR, KafkaError.INVALID_CONFIG, KafkaError.POLICY_VIOLATION}


def create_topics(settings: Settings, part: str | None = None) -> list[str]:
    """Creates what is missing and checks all; returns the names created. UserError if the broker is away, refuses, or differs.

    For a part only if a topic that it reads or writes is missing, since it may not see the others, and if it has the rights that it needs.
    """
    if part is not None:
        acls.check_rights(settings, part)  # a topic that we may not see looks missing
    missing = _missing(settings, _topics_of(None)) if _missing(settings, _topics_of(part)) else []
    created = _create(settings, missing) if missing else []
    _await(settings, missing)
    check_topics(settings, part)
    return created


def check_topics(settings: Settings, part: str | None = None) -> None:
    """UserError naming the first topic that is missing, or has other partitions or another cleanup policy than its contract.

    With a part: also the first right that it does not have; its topics only.
    """
    present = kafka.reach(settings).topics  # first: a broker that is away shows no rights
    if part is not None:
        acls.check_rights(settings, part)
    _check_partitions(settings, _topics_of(part), present)
    for topic, configs in _configs(settings, _topics_of(part)):
        _same(settings, topic, _MUST_MATCH, topic.configs[_MUST_MATCH], configs[_MUST_MATCH].value)


def check_partitions(settings: Settings, topics: Iterable[Topic]) -> None:
    """UserError naming the first of these topics that is missing, or has other partitions than its contract."""
    _check_partitions(settings, topics, kafka.reach(settings).topics)


def _check_partitions(settings: Settings, topics: Iterable[Topic], present: Mapping[str, Any]) -> None:
    for topic in topics:
        name = kafka.topic_name(settings, topic.name)
        if name not in present:
            raise UserError(
                f"kafka.topic_prefix is {settings.kafka.topic_prefix!r}: there is no topic {name}. "
                f"Create it: `python -m pipeline topics create`; `python -m pipeline run` does so, too."
            )
        _same(settings, topic, "partitions", str(topic.partitions), str(len(present[name].partitions)))


def _topics_of(part: str | None) -> list[Topic]:
    return [topic for topic in load_topics().values() if part is None or part in (*topic.producers, *topic.consumers)]


def _missing(settings: Settings, topics: Iterable[Topic]) -> list[Topic]:
    present = kafka.reach(settings).topics
    return [topic for topic in topics if kafka.topic_name(settings, topic.name) not in present]


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
        if error.code() in kafka.PERMISSIONS:
            raise UserError(
                f"kafka.topic_prefix is {settings.kafka.topic_prefix!r}: there is no topic {kafka.topic_name(settings, topic.name)}, "
                f"and we may not make it. An administrator makes all with `python -m pipeline topics create`."
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
        raise kafka.user_error(settings, exception.args[0], "see the settings of topics") from None


def _same(settings: Settings, topic: Topic, what: str, expected: str, found: str) -> None:
    if found != expected:
        raise UserError(
            f"kafka.topic_prefix is {settings.kafka.topic_prefix!r}: topic {kafka.topic_name(settings, topic.name)} has {what} {found}, "
            f"expected {expected} (topics/{topic.name}.yaml). Delete it or correct it there, or set another kafka.topic_prefix."
        )
