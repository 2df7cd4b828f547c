"""The changelog of a partition, on a real Kafka: what is committed is restored, all of it or nothing."""

import os
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.cimpl import NewTopic

from pipeline.adapters import changelog as module
from pipeline.adapters import kafka
from pipeline.adapters.changelog import APPLIED, Changelog, FencedError, Output, RefusedError, Restored, RetryError
from pipeline.settings import Settings

PARTITION = 1


@pytest.fixture
def topics(settings: Settings) -> Settings:
    """Two partitions each of the table's changelog and of a topic for outputs."""
    admin = kafka.admin(settings)
    wanted = [
        NewTopic(kafka.topic_name(settings, "fruit-baskets-changelog"), 2, 1, config={"cleanup.policy": "compact"}),
        NewTopic(kafka.topic_name(settings, "labels"), 2, 1),
    ]
    for future in admin.create_topics(wanted).values():
        future.result(timeout=30)
    return settings


@pytest.fixture
def opened(topics: Settings) -> Iterator[Changelog]:
    changelog = baskets(topics)
    changelog.open()
    yield changelog
    changelog.close()


def baskets(settings: Settings) -> Changelog:
    return Changelog(settings, "fruit", "baskets", PARTITION)


def outputs(settings: Settings) -> list[tuple[int, bytes, bytes | None]]:
    """All that readers of committed records see in `labels`: partition, key, value."""
    consumer = kafka.consumer(settings, None, **{"enable.partition.eof": True})
    consumer.assign([TopicPartition(kafka.topic_name(settings, "labels"), partition, 0) for partition in range(2)])
    seen: list[tuple[int, bytes, bytes | None]] = []
    ended = 0
    while ended < 2:
        for message in consumer.consume(100, 0.1):
            if message.error():
                ended += 1
            else:
                seen.append((message.partition(), message.key(), message.value()))  # type: ignore[arg-type]
    consumer.close()
    return seen


def test_a_new_partition_is_empty(topics: Settings) -> None:
    assert baskets(topics).open() == Restored({}, {})


def test_what_was_committed_last_is_restored(topics: Settings, opened: Changelog) -> None:
    """The latest value of each key, without those that are gone; and the offsets applied."""
    opened.commit([], {b"a": b"1", b"b": b"1", b"c": b"1"}, {"apples": 7})
    opened.commit([], {b"a": b"2", b"b": None}, {"apples": 9, "pears": 0})
    assert baskets(topics).open() == Restored({"apples": 9, "pears": 0}, {b"a": b"2", b"c": b"1"})


def test_outputs_go_to_the_partition_of_the_state(topics: Settings, opened: Changelog) -> None:
    """Whatever their key; a value of None goes out as a tombstone."""
    opened.commit([Output("labels", b"x", b"1"), Output("labels", b"y", None)], {}, {"apples": 1})
    assert outputs(topics) == [(PARTITION, b"x", b"1"), (PARTITION, b"y", None)]


def test_many_items_are_restored(topics: Settings, opened: Changelog) -> None:
    """More than one read brings."""
    items = {b"%d" % number: os.urandom(100) for number in range(30_000)}
    opened.commit([], dict(items), {"apples": 1})
    assert baskets(topics).open().items == items


def test_partitions_do_not_see_each_other(topics: Settings, opened: Changelog) -> None:
    opened.commit([], {b"a": b"1"}, {"apples": 1})
    assert Changelog(topics, "fruit", "baskets", PARTITION - 1).open() == Restored({}, {})


def test_who_opens_a_partition_fences_the_owner_before(topics: Settings, opened: Changelog) -> None:
    """Nothing that the old owner commits afterwards is seen by anybody, neither state nor outputs."""
    opened.commit([Output("labels", b"x", b"before")], {b"a": b"before"}, {"apples": 1})
    successor = baskets(topics)
    successor.open()
    with pytest.raises(FencedError):
        opened.commit([Output("labels", b"x", b"zombie")], {b"a": b"zombie"}, {"apples": 2})
    successor.commit([Output("labels", b"x", b"after")], {b"b": b"after"}, {"apples": 2})
    assert baskets(topics).open() == Restored({"apples": 2}, {b"a": b"before", b"b": b"after"})
    assert [value for _, _, value in outputs(topics)] == [b"before", b"after"]


def test_a_transaction_that_its_owner_left_open_is_not_restored(topics: Settings, opened: Changelog) -> None:
    """Kill -9 before the commit: the successor aborts it at once, and does not wait for its timeout."""
    opened.commit([], {b"a": b"1"}, {"apples": 1})
    begin(opened, b"a", b"half")
    started = time.monotonic()
    assert baskets(topics).open() == Restored({"apples": 1}, {b"a": b"1"})
    assert time.monotonic() - started < module.TRANSACTION_TIMEOUT_MS / 1000 / 2


def test_an_aborted_transaction_at_the_end_does_not_hang_the_restore(topics: Settings, opened: Changelog) -> None:
    """The last offsets of the partition then hold nothing that a reader could get."""
    opened.commit([], {b"a": b"1"}, {"apples": 1})
    producer = begin(opened, b"a", b"aborted")
    producer.abort_transaction(10)
    assert baskets(topics).open() == Restored({"apples": 1}, {b"a": b"1"})


def test_only_aborted_transactions_restore_as_empty(topics: Settings, opened: Changelog) -> None:
    producer = begin(opened, b"a", b"aborted")
    producer.abort_transaction(10)
    assert baskets(topics).open() == Restored({}, {})


def test_a_batch_that_the_broker_timed_out_leaves_nothing_and_can_be_done_again(topics: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall between begin and commit: the broker aborts and bars us; opened again, the same batch goes through."""
    monkeypatch.setattr(module, "TRANSACTION_TIMEOUT_MS", 1000)
    stalled = baskets(topics)
    stalled.open()
    commit = stalled._commit_transaction

    def commit_late() -> None:
        stalled._producer.flush(10)  # type: ignore[union-attr]
        wait_until_aborted(topics)
        commit()

    monkeypatch.setattr(stalled, "_commit_transaction", commit_late)
    with pytest.raises((FencedError, RetryError)):
        stalled.commit([Output("labels", b"x", b"1")], {b"a": b"1"}, {"apples": 1})
    assert outputs(topics) == []
    monkeypatch.undo()
    assert stalled.open() == Restored({}, {})
    stalled.commit([Output("labels", b"x", b"1")], {b"a": b"1"}, {"apples": 1})
    assert outputs(topics) == [(PARTITION, b"x", b"1")]


def test_what_the_broker_will_never_take_is_said_at_once(topics: Settings, opened: Changelog) -> None:
    """A record above the topic's max.message.bytes: a RefusedError with the reason, not a retry for ever; and nothing is written."""
    with pytest.raises(RefusedError, match="Message size too large"):
        opened.commit([Output("labels", b"x", b"1")], {b"a": os.urandom(5 << 20)}, {"apples": 1})
    assert outputs(topics) == []
    assert baskets(topics).open() == Restored({}, {})


def test_a_missing_changelog_topic_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NEW_TOPIC_S", 1)
    with pytest.raises(RefusedError, match="nowhere-changelog"):
        Changelog(settings, "fruit", "nowhere", 0).open()


def test_the_key_of_the_applied_offsets_is_nobodys(opened: Changelog) -> None:
    with pytest.raises(AssertionError):
        opened.commit([], {APPLIED: b"1"}, {})


def begin(changelog: Changelog, key: bytes, value: bytes):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Its producer in the middle of a transaction."""
    producer = changelog._producer
    assert producer is not None
    producer.begin_transaction()
    producer.produce(changelog._topic, value, key, PARTITION)
    assert producer.flush(10) == 0
    return producer


def wait_until_aborted(settings: Settings) -> None:
    """Until the broker has ended the open transaction: committed records end where all records end again."""
    where = TopicPartition(kafka.topic_name(settings, "labels"), PARTITION)
    committed, everything = kafka.consumer(settings), kafka.consumer(settings, None, **{"isolation.level": "read_uncommitted"})
    deadline = time.monotonic() + 30
    while committed.get_watermark_offsets(where, timeout=10)[1] < everything.get_watermark_offsets(where, timeout=10)[1]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    committed.close()
    everything.close()
