"""Topics on the broker are those of the contracts, or the user is told which one is not."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]  # not in its __all__

from pipeline.adapters import kafka
from pipeline.adapters import topics as on_broker
from pipeline.adapters.contracts import load_topics
from pipeline.errors import UserError
from pipeline.settings import Kafka, Settings

NOWHERE = "127.0.0.1:9"


def elsewhere(settings: Settings, servers: str = NOWHERE, **options: str) -> Settings:
    """The same settings with another broker or other client options."""
    kafka_settings = settings.kafka.model_copy(update={"bootstrap_servers": servers, "options": options})
    return settings.model_copy(update={"kafka": kafka_settings})


def create_by_hand(settings: Settings, name: str, partitions: int, **configs: str) -> None:
    client = kafka.admin(settings)
    wanted = NewTopic(kafka.topic_name(settings, name), partitions, 1, config=configs)
    client.create_topics([wanted])[wanted.topic].result()


def test_topics_are_created_as_their_contracts_say(settings: Settings) -> None:
    """Every topic is there afterwards, under the prefix, with its partitions and its settings."""
    assert sorted(on_broker.create_topics(settings)) == sorted(load_topics())
    on_broker.check_topics(settings)
    name = kafka.topic_name(settings, "page-views")
    assert len(kafka.reach(settings).topics[name].partitions) == load_topics()["page-views"].partitions
    resource = ConfigResource(ResourceType.TOPIC, name)
    client = kafka.admin(settings)
    configs = client.describe_configs([resource])[resource].result()
    assert configs["retention.ms"].value == "-1"


def test_checking_asks_once_what_there_is(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster with thousands of topics has much to tell."""
    on_broker.create_topics(settings)
    asked: list[Settings] = []
    reach = kafka.reach

    def counted(settings: Settings) -> Any:
        asked.append(settings)
        return reach(settings)

    monkeypatch.setattr(kafka, "reach", counted)
    on_broker.check_topics(settings, "record")
    assert len(asked) == 1


def test_creating_again_changes_nothing(settings: Settings) -> None:
    """The second time there is nothing to create."""
    on_broker.create_topics(settings)
    assert on_broker.create_topics(settings) == []


def test_several_processes_may_create_at_once(settings: Settings) -> None:
    """Each topic is created by one of them, and all of them succeed."""
    with ThreadPoolExecutor(3) as pool:
        created = list(pool.map(on_broker.create_topics, [settings] * 3))
    assert sorted(name for names in created for name in names) == sorted(load_topics())


def test_a_topic_with_other_partitions_is_refused(settings: Settings) -> None:
    """The message names the topic, both numbers, the contract and the setting."""
    create_by_hand(settings, "identifies", partitions=2)
    with pytest.raises(UserError) as refused:
        on_broker.create_topics(settings)
    name = kafka.topic_name(settings, "identifies")
    assert f"topic {name} has partitions 2, expected 6 (topics/identifies.yaml)" in str(refused.value)
    assert "kafka.topic_prefix" in str(refused.value)


def test_a_topic_with_another_cleanup_policy_is_refused(settings: Settings) -> None:
    """A raw topic that is compacted would lose events, so nothing starts on it."""
    create_by_hand(settings, "page-views", partitions=6, **{"cleanup.policy": "compact"})
    with pytest.raises(UserError, match=r"page-views has cleanup\.policy compact, expected delete \(topics/page-views\.yaml\)"):
        on_broker.create_topics(settings)


def test_a_missing_topic_is_named(settings: Settings) -> None:
    """Checking creates nothing, and says how to create."""
    with pytest.raises(UserError, match=r"there is no topic .*\. Create it: `python -m pipeline topics create`"):
        on_broker.check_topics(settings)


def test_more_replicas_than_brokers_is_refused(settings: Settings) -> None:
    """The message names the setting and its value."""
    many = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"replication_factor": 3})})
    with pytest.raises(UserError, match=r"kafka\.replication_factor is 3: the broker does not create"):
        on_broker.create_topics(many)


def test_a_broker_that_is_not_there_is_named() -> None:
    """The message has the setting, its value and what to do."""
    with pytest.raises(
        UserError, match=r"kafka\.bootstrap_servers is '127\.0\.0\.1:9': no broker answers there .*PIPELINE_KAFKA__BOOTSTRAP_SERVERS"
    ):
        kafka.reach(elsewhere(Settings(kafka=Kafka())), timeout_s=1)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (KafkaError._AUTHENTICATION, "refused our credentials (sasl.username is 'ada'): no. Correct sasl.mechanism, sasl.username"),
        (KafkaError._SSL, "no TLS connection to 127.0.0.1:9: no. Correct security.protocol and ssl.*"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "does not allow user 'ada' to do this (no). Is it the right user for this part"),
        (KafkaError._TRANSPORT, "no broker answers there (no). Start Kafka"),
    ],
)
def test_an_error_of_the_broker_says_what_to_do(code: int, said: str) -> None:
    """Each kind of error has its own advice, and no password is in it."""
    settings = elsewhere(Settings(kafka=Kafka()), **{"sasl.username": "ada", "sasl.password": "secret"})
    message = str(kafka.user_error(settings, KafkaError(code, "no")))
    assert said in message
    assert "secret" not in message


def test_an_unknown_client_option_is_named() -> None:
    """What librdkafka does not know is the user's spelling."""
    with pytest.raises(UserError, match=r'kafka\.options: No such configuration property: "sasl\.pasword"'):
        kafka.admin(elsewhere(Settings(kafka=Kafka()), **{"sasl.pasword": "x"}))


def test_options_of_the_user_win() -> None:
    """kafka.options are passed through, over our defaults and those of the caller."""
    with pytest.raises(UserError, match=r"kafka\.options: .*acks"):
        kafka.producer(elsewhere(Settings(kafka=Kafka()), acks="many"), acks="1")


def test_contracts_are_what_is_checked() -> None:
    """The partition count compared is the contract's, so a changed contract is noticed."""
    topic = replace(load_topics()["page-views"], partitions=12)
    with pytest.raises(UserError, match="page-views has partitions 6, expected 12"):
        on_broker._same(Settings(), topic, "partitions", str(topic.partitions), "6")
