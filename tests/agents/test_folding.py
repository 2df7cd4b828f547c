"""One process's partitions of a stateful part, batch by batch, on a real changelog."""

from typing import Any

import msgspec
import pytest
from confluent_kafka import TopicPartition
from structlog.testing import capture_logs

from pipeline.adapters import kafka
from pipeline.adapters.batching import Batch
from pipeline.adapters.changelog import APPLIED, Changelog, FencedError, RetryError
from pipeline.adapters.deleted import DeletedError, MadeAnewError
from pipeline.adapters.kafka import DamagedError
from pipeline.adapters.topic_ids import topic_ids
from pipeline.agents import folding as module
from pipeline.agents.folding import Fold, Folding
from pipeline.agents.health import Health
from pipeline.agents.rereading import Sources
from pipeline.replay import registry
from pipeline.replay.registry import About, Generation, State
from pipeline.settings import Settings
from tests.agents.counting import CHANGELOG, SOURCES, TOTALS, Counts, decode
from tests.agents.running import Toy
from tests.waiting import until


@pytest.fixture
def folding(toy: Toy) -> Folding:
    for topic in SOURCES:
        toy.publish_to(topic, 0, [b"something"] * 10)  # offsets that batches can speak of
    return new_folding(toy.settings)


def new_folding(settings: Settings) -> Folding:
    return Folding(settings, "count", Fold(SOURCES, "keys", Counts), decode, Health("count", "a"))


def batch(*values: bytes, first: int = 0, topic: str = "apples", generation: int = 1) -> Batch:
    """Records of partition 0, at consecutive offsets."""
    size = len(values)
    offsets = list(range(first, first + size))
    return Batch(topic, 0, offsets, [None] * size, list(values), 0, generation)


def test_a_batch_that_comes_again_changes_nothing(toy: Toy, folding: Folding) -> None:
    """Nor does the part of one that was applied before; each topic has offsets of its own."""
    assert folding.settle([batch(b"a", b"b")])
    assert folding.settle([batch(b"a", b"b")])
    assert folding.settle([batch(b"b", b"c", first=1)])
    assert folding.settle([batch(b"a", topic="pears")])
    assert toy.totals() == {b"a": 2, b"b": 1, b"c": 1}


def test_another_process_goes_on_where_this_one_was(toy: Toy, folding: Folding) -> None:
    folding.settle([batch(b"a", b"b")])
    assert new_folding(toy.settings).settle([batch(b"a", b"b", b"a")])
    assert toy.totals() == {b"a": 2, b"b": 1}


def test_whoever_was_fenced_leaves_the_batch_to_the_new_owner(toy: Toy, folding: Folding) -> None:
    """Also the batches after it, until the next rebalance: the state here is stale."""
    folding.settle([batch(b"a")])
    owner = new_folding(toy.settings)
    assert owner.settle([batch(b"a", first=1, generation=2)])
    assert not folding.settle([batch(b"a", first=1)])
    assert not folding.settle([batch(b"a", first=2)])
    assert owner.settle([batch(b"a", first=2, generation=2)])
    assert toy.totals() == {b"a": 3}


def test_a_partition_that_comes_back_is_opened_afresh(toy: Toy, folding: Folding) -> None:
    """Somebody else had it in between, and this process never noticed: fenced, but by then the owner again."""
    folding.settle([batch(b"a")])
    new_folding(toy.settings).settle([batch(b"a", first=1, generation=2)])
    assert folding.settle([batch(b"a", b"a", first=1, generation=3)])
    assert toy.totals() == {b"a": 3}


def test_an_aborted_batch_is_done_again_from_the_state_before_it(toy: Toy, folding: Folding, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state in memory is ahead of the log then: counting on from it would count twice."""
    monkeypatch.setattr(module, "_RETRY_PAUSE_S", 0)
    folding.settle([batch(b"a")])
    commit = Changelog.commit

    def aborted_once(self: Changelog, *arguments: object) -> None:
        monkeypatch.setattr(Changelog, "commit", commit)
        raise RetryError

    monkeypatch.setattr(Changelog, "commit", aborted_once)
    assert folding.settle([batch(b"a", first=1)])
    assert toy.totals() == {b"a": 2}


def test_partitions_that_moved_are_forgotten(toy: Toy, folding: Folding) -> None:
    """The memory is free, and whatever comes late for them is opened, masked, and changes nothing."""
    folding.settle([batch(b"a")])
    folding.keep({1, 2})
    new_folding(toy.settings).settle([batch(b"a", first=1, generation=2)])
    assert folding.settle([batch(b"a", first=1)])
    assert toy.totals() == {b"a": 2}


def test_partitions_that_stayed_are_not_read_again(folding: Folding, monkeypatch: pytest.MonkeyPatch) -> None:
    folding.settle([batch(b"a")])
    folding.keep({0, 1})

    def refuse(self: Changelog) -> None:
        raise FencedError("opened again")

    monkeypatch.setattr(Changelog, "open", refuse)
    assert folding.settle([batch(b"a", first=1, generation=2)])


def test_a_bug_leaves_settle(folding: Folding) -> None:
    with pytest.raises(ValueError, match="bug"):
        folding.settle([batch(b"poison")])


def test_records_that_are_no_events_count_as_applied(toy: Toy, folding: Folding) -> None:
    """Else the state would look as if it were behind the committed offsets, and the next owner would read them again."""
    assert folding.settle([batch(b"refused:1", b"refused:2")])
    assert changelog(toy).open().applied == {"apples": 1}


def test_state_that_was_lost_is_computed_again(toy: Toy) -> None:
    """The group has committed, and the changelog is empty: all that the topics have is read again: nobody knows what it had."""
    published(toy)
    with capture_logs() as logs:
        assert new_folding(toy.settings).settle([batch(b"a", first=3)])
    assert toy.totals() == {b"a": 6, b"b": 1}
    assert [log["records_at_most"] for log in logs if "reading its sources again" in log["event"]] == [7]


def test_state_that_is_older_than_the_offsets_is_brought_up_to_date(toy: Toy) -> None:
    """As when a broker recovered from a crash without the changelog's end."""
    published(toy)
    older = changelog(toy)
    older.open()
    older.commit([], {b"a": b"1"}, {"apples": 0})
    assert new_folding(toy.settings).settle([batch(b"a", topic="pears", first=2)])
    assert toy.totals() == {b"a": 6, b"b": 1}


def test_after_a_loss_everything_is_said_again(toy: Toy) -> None:
    """Also of what did not come again: readers may know of it what the lost state had made of it."""
    published(toy)
    older = changelog(toy)
    older.open()
    older.commit([], {b"a": b"1", b"c": b"5"}, {"apples": 0})
    assert new_folding(toy.settings).settle([batch(b"a", topic="pears", first=2)])
    assert toy.totals() == {b"a": 6, b"b": 1, b"c": 5}
    assert changelog(toy).open().items.keys() == {b"a", b"b", b"c"}


def test_who_is_killed_amid_reading_again_says_everything_when_it_is_back(toy: Toy) -> None:
    """The state is as far as the group has committed by then, and knows that not all has been said."""
    published(toy)
    amid = changelog(toy)
    amid.open()
    amid.commit([], {b"a": b"5", b"b": b"1", b"again": b"1"}, {"apples": 3, "pears": 2})
    assert new_folding(toy.settings).settle([batch(b"c", first=4)])
    assert toy.totals() == {b"a": 5, b"b": 1, b"c": 1}
    assert changelog(toy).open().items.keys() == {b"a", b"b", b"c"}


def test_state_whose_records_are_gone_too_is_refused(toy: Toy) -> None:
    """Which, and what to do; with leave to lose them it goes on with what there is."""
    published(toy)
    toy.delete_before("apples", 0, 2)
    with pytest.raises(DeletedError, match=r"2 records were deleted.*offsets 0 to 1 of .*apples\[0\].*worker.deleted_records=skip"):
        new_folding(toy.settings).settle([batch(b"a", first=3)])
    worker = toy.settings.worker.model_copy(update={"deleted_records": "skip"})
    assert new_folding(toy.settings.model_copy(update={"worker": worker})).settle([batch(b"a", first=3)])
    assert toy.totals() == {b"a": 5}


def test_lost_state_of_a_generation_begins_where_the_generation_does(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was rebuilt from a time on never had what was before."""
    monkeypatch.setattr(kafka, "is_common", lambda topic: topic in SOURCES)
    later = Toy(toy.settings.of_generation(2))
    later.make_topics([TOTALS, CHANGELOG])
    registry.write(toy.settings, Generation(2, State.FOLLOWING, about=About(begin={"apples": [1], "pears": [2]})))
    published(later)
    assert new_folding(later.settings).settle([batch(b"a", first=3)])
    assert later.totals() == {b"a": 3, b"b": 1}


def test_records_may_go_after_somebody_has_looked_for_them(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention does not wait: the same is said, or done, as if they had been gone before."""
    published(toy)
    missing = Sources._missing

    def looked(self: Sources, *arguments: Any, again: bool) -> dict[str, range]:
        found = missing(self, *arguments, again=again)
        toy.delete_before("apples", 0, 2)
        return found | {kafka.topic_name(toy.settings, "apples"): range(3)}

    monkeypatch.setattr(Sources, "_missing", looked)
    with pytest.raises(DeletedError, match=r"2 records were deleted.*offsets 0 to 1 of .*apples\[0\]"):
        new_folding(toy.settings).settle([batch(b"a", first=3)])
    worker = toy.settings.worker.model_copy(update={"deleted_records": "skip"})
    assert new_folding(toy.settings.model_copy(update={"worker": worker})).settle([batch(b"a", first=3)])
    assert toy.totals() == {b"a": 5}


def test_state_that_is_ahead_of_its_topic_is_refused(toy: Toy, folding: Folding) -> None:
    """The topic was made anew: its records would be taken for those that were applied before."""
    ahead = changelog(toy)
    ahead.open()
    ahead.commit([], {b"a": b"1000"}, {"apples": 999})
    with pytest.raises(
        MadeAnewError, match=r"ends at offset 10, and count .its state is in .*count-keys-changelog. has come to 1,000.*topics create"
    ):
        folding.settle([batch(b"a")])


@pytest.mark.parametrize("running", [True, False], ids=["under our eyes", "while nobody looked"])
def test_state_of_another_topic_is_refused(toy: Toy, folding: Folding, running: bool) -> None:
    """The topic was made anew and is as long as it was: only its id tells. Without the changelog all that it has is applied."""
    folding.settle([batch(b"a", b"b")])
    toy.make_anew("apples")
    toy.publish_to("apples", 0, [b"c"] * 10)
    with pytest.raises(MadeAnewError, match=r"apples: deleted and made again since the state in .*count-keys-changelog.*topics create"):
        (folding if running else new_folding(toy.settings)).settle([batch(b"c", first=0 if running else 2)])
    toy.make_anew(CHANGELOG)
    assert new_folding(toy.settings).settle([batch(b"c", b"c")])
    assert toy.totals() == {b"a": 1, b"b": 1, b"c": 2}


@pytest.mark.parametrize("is_raw", [True, False], ids=["raw", "derived"])
def test_what_to_do_about_a_topic_that_is_another_one_depends_on_who_writes_it(toy: Toy, is_raw: bool) -> None:
    """What producers wrote may come again; what a part of ours has written of records that it has committed does not."""
    toy.make_topics([topic := "page-views" if is_raw else "identity-evidence"])
    until(lambda: bool(topic_ids(toy.settings, [topic])))
    sources = Sources(toy.settings, "identify", [topic], "its-changelog")
    with pytest.raises(MadeAnewError, match=r"delete the topic its-changelog" if is_raw else r"replay start"):
        sources.same({topic: "another id"})


def test_state_from_before_the_ids_is_read(toy: Toy, folding: Folding) -> None:
    toy.publish_to(CHANGELOG, 0, [b"5"], b"a")
    toy.publish_to(CHANGELOG, 0, [msgspec.msgpack.encode({"apples": 1})], APPLIED)
    assert changelog(toy).open() == ({"apples": 1}, {b"a": b"5"}, {})
    assert folding.settle([batch(b"a", b"b", b"a")])
    assert toy.totals() == {b"a": 6}
    assert changelog(toy).open().topic_ids.keys() == set(SOURCES) - {"pears"}


@pytest.mark.parametrize("damage", [{b"a": b"no number"}, {APPLIED: b"\xc1"}], ids=["an item", "the offsets"])
def test_state_that_is_not_ours_is_refused(toy: Toy, folding: Folding, damage: dict[bytes, bytes]) -> None:
    """Bytes of somebody else: the topic is named, and what to do; neither key nor value is shown."""
    folding.settle([batch(b"a")])
    toy.publish_to(CHANGELOG, 0, damage.values(), next(iter(damage)))
    with pytest.raises(DamagedError, match=r"count-keys-changelog\[0\] is not what count has written.*topics create") as error:
        new_folding(toy.settings).settle([batch(b"a", first=1)])
    assert "no number" not in str(error.value)


def published(toy: Toy) -> None:
    """Three and two records, which the group has committed."""
    toy.publish_to("apples", 0, [b"a", b"b", b"a"])
    toy.publish_to("pears", 0, [b"a", b"a"])
    consumer = kafka.consumer(toy.settings, "count")
    ends = {"apples": 3, "pears": 2}
    consumer.commit(
        offsets=[TopicPartition(kafka.topic_name(toy.settings, name), 0, end) for name, end in ends.items()], asynchronous=False
    )
    consumer.close()
    toy.publish_to("apples", 0, [b"a"])
    toy.publish_to("pears", 0, [b"a"])


def changelog(toy: Toy) -> Changelog:
    return Changelog(toy.settings, "count", "keys", 0)
