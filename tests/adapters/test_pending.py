"""When `record` writes what it holds, and what it forgets."""

from typing import Any

from pipeline.adapters.pending import FLUSH_BYTES, FLUSH_ROWS, Pending


class Message:
    """As much of Kafka's message as `Pending` looks at."""

    def __init__(self, topic: str, partition: int, size: int = 10) -> None:
        self._place, self._size = (topic, partition), size

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]

    def __len__(self) -> int:
        return self._size


def pending(*messages: Any, at: float) -> Pending:
    pending = Pending()
    pending.add(messages, at)
    return pending


def test_a_flush_is_due_a_quarter_of_a_second_after_the_first_record() -> None:
    some = pending(Message("a", 0), at=100.0)
    some.add([Message("a", 0)], 100.2)  # type: ignore[list-item]
    assert (some.is_due(100.24), some.is_due(100.25), pending(at=0.0).is_due(1_000.0)) == (False, True, False)


def test_a_flush_that_took_long_makes_the_next_one_wait_and_be_worth_it() -> None:
    some = pending(Message("a", 0), at=100.0)
    some.took(0.3)
    for now in (100.2, 100.4, 100.6, 100.8, 101.0, 101.15):
        some.add([Message("a", 0)], now)  # type: ignore[list-item]
    assert (some.is_due(101.1), some.is_due(101.3)) == (False, True)
    some.took(30.0)
    assert (some.is_due(101.3), some.is_due(102.1)) == (False, True)
    some.took(0.01)
    assert some.is_due(100.3)


def test_a_flush_is_due_when_no_more_comes() -> None:
    """Under load it waits for more; at the end of a load it would wait in vain."""
    some = pending(Message("a", 0), at=100.0)
    some.took(0.4)
    some.add([Message("a", 0)], 100.5)  # type: ignore[list-item]
    some.add([], 100.7)
    assert (some.is_due(100.89), some.is_due(100.91)) == (False, True)


def test_a_flush_is_due_when_the_records_are_many_or_large() -> None:
    many = pending(*[Message("a", 0)] * FLUSH_ROWS, at=100.0)
    large = pending(Message("a", 0, size=FLUSH_BYTES), at=100.0)
    assert (many.is_due(100.0), large.is_due(100.0)) == (True, True)


def test_records_of_a_lost_partition_are_forgotten() -> None:
    some = pending(Message("a", 0), Message("a", 1), Message("b", 0), at=100.0)
    some.drop({("a", 0)})
    assert (some.rows, some.bytes, some.since, {name: len(messages) for name, messages in some.messages.items()}) == (
        2,
        20,
        100.0,
        {"a": 1, "b": 1},
    )
