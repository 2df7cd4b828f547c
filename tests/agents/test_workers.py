"""Workers as processes on a real Kafka: whatever happens to them, each record counts exactly once."""

import signal
import time
from collections import Counter

import pytest

from pipeline.adapters.avro_columns import MAX_BYTES
from pipeline.adapters.topics import create_topics
from pipeline.agents.sessionize import sessionize
from pipeline.agents.worker import wait_for_topics
from pipeline.errors import UserError
from pipeline.settings import Settings
from tests.adapters.test_topics import create_by_hand
from tests.agents.counting import CHANGELOG, SOURCES, TOTALS
from tests.agents.running import PARTITIONS, Toy
from tests.waiting import until


def test_counts_are_exact_after_a_clean_restart_in_the_middle(toy: Toy) -> None:
    """SIGTERM: the batch in hand ends, its offset is committed, the process exits with 0 within 10 s; the next goes on there."""
    toy.publish(3000)
    worker = toy.start(slow=True)
    until(toy.has_counted(0.2))
    asked = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - asked < 10
    assert sum(toy.committed().values()) == sum(toy.totals().values()) < 3000
    toy.start()
    until(toy.is_counted)


def test_counts_are_exact_after_kill_9_again_and_again(toy: Toy) -> None:
    """What was applied and not committed is masked when it comes again."""
    toy.publish(4000)
    for share in (0.1, 0.3, 0.5):
        worker = toy.start(instance="a", slow=True)
        until(toy.has_counted(share))
        worker.kill()
    toy.start(instance="a")
    until(toy.is_counted)


def test_a_restarted_instance_has_its_partitions_back_before_the_session_times_out(toy: Toy) -> None:
    """Static membership: nobody waits for the dead one's session."""
    toy.publish(100)
    first = toy.start(instance="a", session_s=60)
    until(toy.is_counted)
    first.kill()
    toy.publish(100, seed=2)
    toy.start(instance="a", session_s=60)
    until(toy.is_counted, seconds=20)


def test_a_second_worker_takes_its_share(toy: Toy) -> None:
    """Partitions move with everything counted so far, and all topics of a partition go together."""
    toy.publish(3000)
    toy.start(instance="a", slow=True)
    until(toy.has_counted(0.2))
    toy.start(instance="b", slow=True)
    until(lambda: len(toy.partitions_of("b")) > 0)
    toy.publish(1000, seed=2)
    until(toy.is_counted)
    until(lambda: len(toy.partitions_of("a")) == len(toy.partitions_of("b")) == PARTITIONS // 2)
    together = {partition: set(SOURCES) for partition in range(PARTITIONS)}
    until(lambda: {**toy.partitions_of("a"), **toy.partitions_of("b")} == together)


def test_a_worker_that_stops_for_good_is_replaced_at_once(toy: Toy) -> None:
    """It leaves the group although it is a static member: nobody waits for its session to time out."""
    toy.publish(4000)
    toy.start(instance="a", session_s=60, slow=True)
    other = toy.start(instance="b", session_s=60, slow=True)
    until(lambda: len(toy.partitions_of("b")) > 0)
    assert other.terminate() == 0
    toy.publish(1000, seed=2)
    until(toy.is_counted, seconds=20)


def test_a_worker_that_stops_while_partitions_move_is_replaced_at_once(toy: Toy) -> None:
    """Another joins while the batch in hand ends: Faust closes the connections then, and we still say goodbye."""
    toy.publish(1600)
    toy.start(instance="a", session_s=60, slow=True)
    leaving = toy.start(instance="b", session_s=60, slow=True, pause_s=0.02)
    until(lambda: len(toy.partitions_of("b")) > 0)
    toy.start(instance="c", session_s=60)
    assert leaving.terminate() == 0
    until(toy.is_counted, seconds=30)


def test_a_lost_worker_is_replaced_after_its_session(toy: Toy) -> None:
    """Kill -9 of one of two: the other takes over its partitions and their state within seconds."""
    toy.publish(4000)
    toy.start(slow=True)
    lost = toy.start(slow=True)
    until(toy.has_counted(0.3))
    lost.kill()
    until(toy.is_counted)


def test_a_zombie_changes_nothing(toy: Toy) -> None:
    """A worker stalls beyond its session in the middle of its work, another takes over; the first wakes up and is fenced."""
    toy.publish(4000)
    zombie = toy.start(slow=True)
    until(toy.has_counted(0.1))
    zombie.signal(signal.SIGSTOP)
    toy.start()
    until(toy.is_counted)
    zombie.signal(signal.SIGCONT)
    toy.publish(500, seed=2)
    until(toy.is_counted)
    time.sleep(2)
    assert toy.is_counted()


def test_a_bug_ends_the_process_and_acks_nothing(toy: Toy) -> None:
    """Exit code 1, and the batch with the record that hits the bug is neither written nor committed, however often it is tried."""
    toy.publish_one(b"fine")
    first = toy.start()
    until(lambda: toy.totals() == {b"fine": 1})
    assert first.terminate() == 0
    before = toy.committed()
    toy.publish_one(b"poison")
    for _ in range(2):
        assert toy.start().wait(20) == 1
        assert toy.committed() == before
    assert toy.totals() == {b"fine": 1}


def test_all_is_committed_when_all_is_done(toy: Toy) -> None:
    """Offsets reach the ends of all partitions although nobody asks: `status` shows no lag."""
    toy.publish(1000)
    toy.start()
    until(toy.is_counted)
    until(lambda: toy.committed() == toy.ends(), seconds=10)


def test_what_is_no_event_is_skipped_and_counted(toy: Toy) -> None:
    """Its neighbours count; the health record says how many were refused and how many came late."""
    for value in (b"fine", b"refused:1", b"late:1", b"fine"):
        toy.publish_one(value)
    toy.start(instance="a")
    until(lambda: toy.totals() == {b"fine": 2, b"late:1": 1})
    until(lambda: [toy.health("a")[name] for name in ("events", "refused", "late")] == [3, 1, 1])


def test_a_route_sends_on_all_that_has_a_key(toy: Toy) -> None:
    """Under the new key, byte for byte, and at least once over a kill -9."""
    toy.publish(2000, topics=["apples"])
    toy.publish_one(b"late:1")
    first = toy.start("sort", instance="a", slow=True)
    until(lambda: len(toy.records("sorted")) > 200, every=0)
    first.kill()
    toy.start("sort", instance="a")
    until(lambda: toy.committed("sort") == {place: end if place[0] == "apples" else 0 for place, end in toy.ends().items()})
    sorted_records = toy.records("sorted")
    assert len(sorted_records) >= 2000
    assert {value for _, value in sorted_records} == set(toy.published)
    assert all(key == value for key, value in sorted_records)


@pytest.mark.parametrize("part", ["count", "sort"])
def test_records_that_were_deleted_unread_stop_the_part(toy: Toy, part: str) -> None:
    """Nobody jumps over them without a word: exit code 1 and nothing committed, until it is allowed; then it goes on with what is left."""
    toy.publish_to("apples", 0, [b"a"] * 3)
    first = toy.start(part)
    until(lambda: toy.committed(part)["apples", 0] == 3)
    assert first.terminate() == 0
    toy.publish_to("apples", 0, [b"b"] * 4)
    toy.delete_before("apples", 0, 5)
    assert toy.start(part).wait(20) == 1
    assert toy.committed(part)["apples", 0] == 3
    worker = toy.settings.worker.model_copy(update={"deleted_records": "skip"})
    toy.settings = toy.settings.model_copy(update={"worker": worker})
    toy.start(part)
    until(lambda: toy.committed(part)["apples", 0] == 7)
    assert (toy.totals() if part == "count" else Counter(key for key, _ in toy.records("sorted"))) == {b"a": 3, b"b": 2}


def test_a_topic_that_is_made_anew_under_a_worker_stops_the_next_one(toy: Toy) -> None:
    """Its state is of the old topic, whatever it read of the new one before it noticed; without that state all of it counts."""
    toy.publish(200, topics=["apples"])
    worker = toy.start()
    until(toy.is_counted)
    toy.make_anew("apples")
    toy.published.clear()
    toy.publish(300, seed=2, topics=["apples"])
    worker.kill()
    assert toy.start().wait(60) == 1
    toy.make_anew(CHANGELOG)
    toy.make_anew(TOTALS)
    toy.start()
    until(toy.is_counted)


def test_an_event_of_the_largest_size_is_sent_on(toy: Toy) -> None:
    """Its key and Kafka's own bytes come on top."""
    largest = b"x" * MAX_BYTES
    toy.publish_to("apples", 0, [largest])
    toy.start("sort")
    until(lambda: toy.records("sorted") == [(largest[:100], largest)])


def test_topics_of_unequal_partitions_are_refused_with_what_to_do(settings: Settings) -> None:
    """A cookie's events would be on one process, and those of another topic on another."""
    create_by_hand(settings, "page-views", partitions=3)
    with pytest.raises(UserError, match="page-views"):
        create_topics(settings)
    with pytest.raises(UserError, match=r"page-views has 3, email-clicks has 6, .*topics check.* kafka\.topic_prefix"):
        wait_for_topics(sessionize(settings))
