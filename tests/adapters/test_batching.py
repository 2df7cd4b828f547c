"""The batched transport's rules, nearly all without a broker. What it does with one is in tests/agents."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiokafka
import faust
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from confluent_kafka.cimpl import NewTopic
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from pipeline.adapters import batching, faust_app, hooks, kafka
from pipeline.adapters.batching import Batch, Consumer, LostBatchError
from pipeline.errors import UserError
from pipeline.settings import Settings
from tests.waiting import until

APPLES = TP("apples", 0)
TOPICS = ("page-views", "email-clicks", "form-submissions", "identifies", "custom-events", "event-copies")


@pytest.fixture
def consumer(settings: Settings) -> Consumer:
    """A consumer that is not connected, of an app that acks all topics."""
    app = faust_app.faust_app(settings, "count")
    app.consumer_generation_id = 1

    async def make() -> Any:
        made = app.consumer
        app.topics.acking_topics.add("apples")
        return made

    made: Consumer = asyncio.run(make())
    return made


def batch(end: int, era: int = 1, number: int = 0) -> Batch:
    return Batch("apples", 0, [end - 1, end], [None, b"k"], [b"v", None], 2000, generation=1, era=era, number=number)


def delivered(consumer: Consumer, *ends: int) -> list[Any]:
    """Batches that went to the agent in this order."""
    return [consumer._to_message(APPLES, batch(end)) for end in ends]


def test_a_batch_is_one_message_with_the_offset_of_its_last_record(consumer: Consumer) -> None:
    """Headers stay inside the batch: Faust would act on some of them."""
    message = consumer._to_message(APPLES, batch(9))
    value: Any = message.value
    assert (message.offset, value.offsets, message.headers, message.key) == (9, [8, 9], None, None)


def test_the_end_of_a_batch_is_committed_when_all_before_it_are_acked(consumer: Consumer) -> None:
    """Not the one that was acked first: Faust can step over a message that is still in hand."""
    first, second, third = delivered(consumer, 9, 19, 29)
    consumer.ack(second)
    assert consumer._new_offset(APPLES) is None
    consumer.ack(first)
    assert consumer._new_offset(APPLES) == 20
    assert consumer._new_offset(APPLES) == 20
    consumer.ack(third)
    assert consumer._new_offset(APPLES) == 30


def test_nothing_after_an_abandoned_batch_is_committed(consumer: Consumer) -> None:
    first, second = delivered(consumer, 9, 19)
    consumer.abandon(first)
    consumer.ack(second)
    assert consumer._new_offset(APPLES) is None


def test_a_batch_that_comes_twice_is_committed_once(consumer: Consumer) -> None:
    """After a seek: the second copy does not hold the queue up."""
    first, again, after = delivered(consumer, 9, 9, 19)
    consumer.ack(first)
    assert consumer._new_offset(APPLES) == 10
    consumer._committed_offset[APPLES] = 10
    consumer.ack(again)
    consumer.ack(after)
    assert consumer._new_offset(APPLES) == 20


def test_gaps_between_batches_are_nothing(consumer: Consumer) -> None:
    """Control records and compaction leave some; Faust would list each missing offset."""
    asyncio.run(consumer._add_gap(APPLES, 0, 10**9))
    first, second = delivered(consumer, 9, 10**9)
    consumer.ack(first)
    consumer.ack(second)
    assert consumer._new_offset(APPLES) == 10**9 + 1


def test_a_commit_that_failed_is_due_again(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust would believe that it was committed."""
    (message,) = delivered(consumer, 9)
    consumer.ack(message)
    answers = iter([False, True])

    async def commit(_: dict[TP, int]) -> bool:
        return next(answers)

    monkeypatch.setattr(consumer, "assignment", lambda: {APPLES})
    monkeypatch.setattr(consumer, "_commit", commit)
    offsets = {APPLES: consumer._new_offset(APPLES) or 0}
    assert asyncio.run(consumer._commit_offsets(offsets)) is False
    assert consumer._should_commit(APPLES, 10)
    assert asyncio.run(consumer._commit_offsets(offsets)) is True
    assert not consumer._should_commit(APPLES, 10)


def test_nothing_is_committed_of_a_partition_that_is_somebody_elses(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    committed: list[dict[TP, int]] = []

    async def commit(offsets: dict[TP, int]) -> bool:
        committed.append(offsets)
        return True

    pears = TP("pears", 0)
    monkeypatch.setattr(consumer, "assignment", lambda: {APPLES})
    monkeypatch.setattr(consumer, "_commit", commit)
    assert asyncio.run(consumer._commit_offsets({APPLES: 10, pears: 20})) is True
    assert asyncio.run(consumer._commit_offsets({pears: 20})) is False
    assert committed == [{APPLES: 10}]
    assert consumer._should_commit(pears, 20)


def test_under_load_the_broker_may_gather_more_before_it_answers(consumer: Consumer, settings: Settings) -> None:
    """What the next fetch request says, of a consumer that is connected; after a quiet one it is as at the beginning."""

    async def waits() -> list[int]:
        thread = consumer._new_consumer_thread()
        servers = settings.kafka.bootstrap_servers
        connected = aiokafka.AIOKafkaConsumer(bootstrap_servers=servers, group_id="any", fetch_max_wait_ms=batching.FETCH_WAIT_MS)
        await connected.start()
        try:
            thread._consumer = connected
            found = [connected._fetcher._fetch_max_wait_ms]
            for records in (batching.LOADED_RECORDS, 10):
                thread._pace(records)
                found.append(connected._fetcher._fetch_max_wait_ms)
            return found
        finally:
            await connected.stop()

    assert asyncio.run(waits()) == [batching.FETCH_WAIT_MS, batching.LOADED_FETCH_WAIT_MS, batching.FETCH_WAIT_MS]


def test_batches_are_due_in_their_order(consumer: Consumer) -> None:
    assert [consumer.is_due(batch(9, era=1, number=number)) for number in (0, 1, 2)] == [True, True, True]


def test_a_missing_batch_stops_the_worker(consumer: Consumer) -> None:
    """Faust drops messages here and there, counting on a seek: without one they would be lost."""
    consumer.is_due(batch(9, era=1, number=0))
    with pytest.raises(LostBatchError):
        consumer.is_due(batch(29, era=1, number=2))


def test_after_a_seek_the_first_batch_must_not_be_missing_either(consumer: Consumer) -> None:
    consumer.is_due(batch(9, era=1, number=0))
    assert consumer.is_due(batch(9, era=2, number=0))
    with pytest.raises(LostBatchError):
        consumer.is_due(batch(9, era=3, number=1))


def test_a_batch_from_before_a_seek_is_not_due(consumer: Consumer) -> None:
    """It comes again."""
    consumer.is_due(batch(9, era=2, number=0))
    assert not consumer.is_due(batch(19, era=1, number=1))


def test_what_cannot_be_decoded_reaches_the_agent(settings: Settings) -> None:
    """Keys and values are not looked at: Faust would ack and drop the message."""
    schema = batching.RawSchema()
    message = SimpleNamespace(key=b"\xff", value=b"\xff\x00")
    app: Any = None
    assert (schema.loads_key(app, message), schema.loads_value(app, message)) == (b"\xff", b"\xff\x00")


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 6, 7])
def test_partition_p_of_all_topics_goes_to_one_worker(settings: Settings, workers: int) -> None:
    """And it stays so when workers come and go."""
    members: dict[str, Any] = {}
    assigned: dict[str, set[tuple[str, int]]] = {}
    for count in (workers, workers + 1, max(1, workers - 1)):
        members = {f"member-{number}": members.get(f"member-{number}") or assignor(settings) for number in range(count)}
        assigned = assign(members)
        owners = {place: member for member, places in assigned.items() for place in places}
        assert len(owners) == len(TOPICS) * 6
        for partition in range(6):
            assert len({owners[topic, partition] for topic in TOPICS}) == 1
        sizes = [len(places) for places in assigned.values()]
        assert max(sizes) - min(sizes) <= len(TOPICS)


def assignor(settings: Settings) -> Any:
    return faust_app.faust_app(settings, "count").assignor


def assign(members: dict[str, Any]) -> dict[str, set[tuple[str, int]]]:
    """One rebalance among these members' assignors."""
    cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(range(6)))
    metadata = {
        name: ConsumerProtocolMemberMetadata(member.version, list(TOPICS), member.metadata(set(TOPICS)).user_data)
        for name, member in members.items()
    }
    answers = next(iter(members.values())).assign(cluster, metadata)
    for name, answer in answers.items():
        members[name].on_assignment(answer)
    return {
        name: {(topic, partition) for topic, partitions in answer.assignment for partition in partitions}
        for name, answer in answers.items()
    }


def test_another_faust_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "PINNED", {"faust-streaming": "0.1", "aiokafka": "0.14.0"})
    with pytest.raises(UserError, match=r"needs faust-streaming 0\.1 .*make install"):
        hooks.check_hooks()


def test_a_missing_hook_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(driver.AIOKafkaConsumerThread, "_fetch_records")
    with pytest.raises(UserError, match=r"AIOKafkaConsumerThread\._fetch_records"):
        hooks.check_hooks()


def test_a_compression_that_cannot_be_read_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the worker would end at the first record that uses it."""
    monkeypatch.setitem(hooks.CODECS, "zstd", lambda: False)
    with pytest.raises(UserError, match="zstd"):
        hooks.check_hooks()


def test_the_app_keeps_to_itself(settings: Settings) -> None:
    """No web server, no topics, no files, no reply queue, no pickles."""
    conf = faust_app.faust_app(settings, "count").conf
    assert not conf.web_enabled
    assert not conf.topic_allow_declare
    assert conf.topic_disable_leader
    assert not conf.reply_create_topic
    assert (conf.key_serializer, conf.value_serializer) == ("raw", "raw")
    assert conf.table_standby_replicas == 0


def test_names_carry_the_prefix(settings: Settings) -> None:
    """Of the group as of topics: two installations on one Kafka do not meet."""
    app = faust_app.faust_app(settings, "count")
    assert app.conf.id == f"{settings.kafka.topic_prefix}count"
    assert app.settings == settings
    assert app.logical_name(f"{settings.kafka.topic_prefix}apples") == "apples"


@pytest.mark.parametrize(
    ("options", "check"),
    [
        ({}, lambda made: made is None),
        ({"security.protocol": "ssl"}, lambda made: made.context.verify_mode == ssl.CERT_REQUIRED and made.context.check_hostname),
        (
            {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "u", "sasl.password": "p"},
            lambda made: (made.username, made.password, made.mechanism.value, made.ssl_context) == ("u", "p", "SCRAM-SHA-512", None),
        ),
        (
            {"security.protocol": "sasl_ssl", "sasl.mechanisms": "PLAIN", "sasl.username": "u", "sasl.password": "p"},
            lambda made: made.protocol.value == "SASL_SSL" and made.ssl_context.check_hostname,
        ),
        (
            {"security.protocol": "ssl", "ssl.endpoint.identification.algorithm": "none"},
            lambda made: made.context.verify_mode == ssl.CERT_REQUIRED and not made.context.check_hostname,
        ),
        (
            {"security.protocol": "ssl", "enable.ssl.certificate.verification": "false"},
            lambda made: made.context.verify_mode == ssl.CERT_NONE,
        ),
    ],
)
def test_kafka_options_are_translated(options: dict[str, str], check: Callable[[Any], bool]) -> None:
    """From librdkafka's names to Faust's credentials: what is safe there is safe here."""
    made = faust_app.credentials(options)
    assert check(made)
    assert made is None or isinstance(made, faust.SSLCredentials | faust.SASLCredentials)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"security.protocol": "tls"}, "security.protocol"),
        ({"security.protocol": "sasl_ssl", "sasl.mechanism": "OAUTHBEARER"}, "OAUTHBEARER"),
        ({"security.protocol": "sasl_plaintext", "sasl.username": "u"}, "sasl.password"),
        ({"security.protocol": "ssl", "ssl.ca.location": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"security.protocol": "ssl", "ssl.certificate.pem": "..."}, "ssl.certificate.location"),
    ],
)
def test_options_that_cannot_be_translated_are_refused_by_name(options: dict[str, str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        faust_app.credentials(options)


def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("no certificate")
    with pytest.raises(UserError, match=r"ssl\.\*"):
        faust_app.credentials({"security.protocol": "ssl", "ssl.ca.location": str(authority)})


def test_several_brokers_become_several_urls() -> None:
    assert batching.brokers("a:1, b:2") == ["batched://a:1", "batched://b:2"]


def test_a_topic_that_a_client_does_not_know_is_asked_for_again(settings: Settings) -> None:
    """Soon: aiokafka asks every five minutes."""
    name = kafka.topic_name(settings, "late")

    async def main() -> None:
        client = AIOKafkaClient(bootstrap_servers=settings.kafka.bootstrap_servers)
        batching.insist_on_metadata(client)
        await client.bootstrap()
        try:
            await client.set_topics([name])
            assert client.cluster.partitions_for_topic(name) is None
            admin = kafka.admin(settings)
            await asyncio.to_thread(admin.create_topics([NewTopic(name, 2, 1)])[name].result, 30)
            await asyncio.to_thread(until, lambda: client.cluster.partitions_for_topic(name) == {0, 1}, seconds=20)
        finally:
            await client.close()

    asyncio.run(main())
