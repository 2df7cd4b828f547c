"""One process's partitions of a stateful part, batch by batch, on a real changelog."""

import pytest

from pipeline.adapters.batching import Batch
from pipeline.adapters.changelog import Changelog, FencedError, RetryError
from pipeline.agents import folding as module
from pipeline.agents.folding import Fold, Folding
from pipeline.agents.health import Health
from pipeline.settings import Settings
from tests.agents.counting import SOURCES, Counts, decode
from tests.agents.running import Toy


@pytest.fixture
def folding(toy: Toy) -> Folding:
    return new_folding(toy.settings)


def new_folding(settings: Settings) -> Folding:
    return Folding(settings, "count", Fold(SOURCES, "keys", Counts), decode, Health("count", "a"))


def batch(*values: bytes, first: int = 0, topic: str = "apples", generation: int = 1) -> Batch:
    """Records of partition 0, at consecutive offsets."""
    size = len(values)
    offsets = list(range(first, first + size))
    return Batch(topic, 0, offsets, [None] * size, list(values), [()] * size, [0] * size, generation)


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


def test_records_that_are_no_events_need_no_transaction(folding: Folding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Changelog, "commit", lambda *_: pytest.fail("nothing to commit"))
    assert folding.settle([batch(b"refused:1", b"refused:2")])
