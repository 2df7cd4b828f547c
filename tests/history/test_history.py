"""The incremental form of sessions equals the plain one, whatever comes in what order, and whoever goes on with what was written.

What `History` *says changed* is applied to a picture of what a reader has; at the end the picture must be what the plain form computes
from the whole set. So a change that is not said, or said wrongly, fails too.
"""

import gc
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.adapters.raw_batch import EventColumns, in_columns
from pipeline.core.events import Event, Utk
from pipeline.core.policy import SessionPolicy
from pipeline.core.sessions import Retention, Session
from pipeline.history import blocks, history, log
from pipeline.history.arrivals import Arrivals, arrivals, together
from pipeline.history.history import Changed, History
from tests.builders import DAY, HOUR, START, custom_event, page_view, retraction, utk
from tests.core.test_convergence import sessions_by_cookie, what_counts, with_retractions
from tests.strategies import colliding_events, deliveries, undone_events

FOREVER = Retention(period=10_000 * DAY, max_events=1_000_000)
policies = st.builds(SessionPolicy, split_on_source_change=st.booleans())
ACTIVITY = ("page_view", "custom_event", "email_click", "form_submission", "identify")
few = hypothesis_settings(max_examples=60, phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink))
"""An example takes tens of milliseconds: columns cost that much to begin with."""


class Reader:
    """A worker that is now and then another one, and what a reader of its sessions has."""

    def __init__(self, policy: SessionPolicy, retention: Retention = FOREVER) -> None:
        self._rules = policy, retention
        self._history = History(*self._rules)
        self.items: dict[bytes, bytes] = {}
        self.shown: dict[tuple[str, str], Session] = {}
        self.late = 0

    def restart(self) -> None:
        self._history = History(*self._rules)
        self._history.restore(self.items)

    def lose(self, items: dict[bytes, bytes]) -> None:
        """The state is what it was with these items; what a reader has seen of it since stays."""
        self.items = items
        self.restart()

    def add(self, arrived: Arrivals, *, again: bool = False) -> Changed:
        changed = self._history.add(arrived, again=again)
        self.late += changed.late
        assert again or all(removed in self.shown for removed in self._history.removed(changed))
        self._show(changed)
        for key, value in changed.items.items():
            if value is None:
                del self.items[key]
            else:
                self.items[key] = value
        return changed

    def add_everything(self) -> None:
        for changed in self._history.everything():
            self._show(changed)

    def _show(self, changed: Changed) -> None:
        for removed in self._history.removed(changed):
            self.shown.pop(removed, None)
        for portal, cookie, *fields in self._history.frame(changed).iter_rows():
            session = Session(*fields)
            self.shown[f"{portal}|{cookie}", session.first_event_id] = session

    def sessions(self, portal: int, cookie: Utk) -> list[Session]:
        ours = [session for (name, _), session in self.shown.items() if name == f"{portal}|{cookie}"]
        return sorted(ours, key=lambda session: session.number)


def arrived(events: Sequence[Event], key: str | None, *, columns: bool = True) -> Arrivals:
    """Events under the key of a cookie, or each under its own; page views in columns, or one by one."""
    keys = [(key or event.utk or event.event_id).encode() for event in events]
    return together(arrivals(_read(batch) if columns else batch, keys) for batch in in_columns(enumerate(events)))


def _read(batch: EventColumns) -> EventColumns:
    """As if it had been read in columns."""
    return EventColumns(batch.type, batch.rows, batch.frame()) if batch.type == "page_view" else batch


@pytest.fixture(params=[False, True], ids=["usual sizes", "small sizes"])
def _sizes(request: pytest.FixtureRequest) -> Iterator[None]:
    """With small ones, blocks are cut, merged and written anew all the time."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setattr(blocks, "BLOCK_ROWS", 8)
            patch.setattr(log, "MERGED", 2)
            patch.setattr(log, "SMALL", 4)
            patch.setattr(history, "_COMPACTED_ROWS", 1)
            patch.setattr(history, "_COOKIES_AT_ONCE", 2)
        yield


@pytest.mark.usefixtures("_sizes")
@few
@given(data=st.data(), events=undone_events(max_size=15), policy=policies)
def test_live_sessions_equal_the_plain_fold(data: st.DataObject, events: list[Event], policy: SessionPolicy) -> None:
    """Any order, duplication, batching and change of owner; every cookie is given all copies of the events that name it, and of the
    retractions that decide about them (topic event-copies).
    """
    expected = sessions_by_cookie(what_counts(events), policy)
    for cookie in {event.utk for event in events if event.utk is not None}:
        ids = with_retractions({event.event_id for event in events if event.utk == cookie}, events)
        copies = [event for event in events if event.event_id in ids]
        reader = Reader(policy)
        for batch in data.draw(deliveries(copies)):
            if data.draw(st.integers(0, 3)) == 0:
                reader.restart()
            reader.add(arrived(batch, cookie, columns=data.draw(st.booleans())))
        assert reader.sessions(1, cookie) == expected.get(cookie, [])
        assert reader.late == 0


@few
@given(data=st.data(), events=undone_events(max_size=15), policy=policies)
def test_sessions_of_a_state_that_has_lost_its_end_are_set_right(data: st.DataObject, events: list[Event], policy: SessionPolicy) -> None:
    """Whatever it had made of however many of the events, in whatever batches; and whoever goes on in the middle."""
    expected = sessions_by_cookie(what_counts(events), policy)
    for cookie in {event.utk for event in events if event.utk is not None}:
        ids = with_retractions({event.event_id for event in events if event.utk == cookie}, events)
        copies = [event for event in events if event.event_id in ids]
        reader = Reader(policy)
        before = data.draw(deliveries(copies))
        kept = data.draw(st.integers(0, len(before)))
        for batch in before[:kept]:
            reader.add(arrived(batch, cookie))
        items = dict(reader.items)
        for batch in before[kept : data.draw(st.integers(kept, len(before)))]:
            reader.add(arrived(batch, cookie))
        reader.lose(items)
        for batch in data.draw(deliveries([event for each in before[kept:] for event in each])):
            if data.draw(st.integers(0, 3)) == 0:
                reader.restart()
            reader.add(arrived(batch, cookie), again=True)
        reader.add_everything()
        assert reader.sessions(1, cookie) == expected.get(cookie, [])


def test_what_is_forgotten_while_it_is_read_again_is_set_right_before() -> None:
    """The lost state had a session that another event has now, and one with an event that was retracted since. Both are too old to be
    remembered once all is read again.
    """
    reader = Reader(SessionPolicy(), Retention(DAY, 100))
    view, extra, later = page_view(1, at=START + 300_000), page_view(3, at=START + 4 * HOUR + 60_000), page_view(5, at=START + 10 * DAY)
    reader.add(arrived([before := page_view(2, at=START + 4 * HOUR)], None))
    items = dict(reader.items)
    reader.add(arrived([view, extra], None))
    reader.lose(items)
    gone = retraction(4, at=START + 5 * HOUR, retracts=3)
    first = custom_event(6, at=START)
    reader.add(together([arrived([view, first, extra], None), arrived([gone], view.utk)]), again=True)
    reader.add(arrived([later], None), again=True)
    reader.add_everything()
    assert reader.late == 0
    assert view.utk is not None
    assert reader.sessions(1, view.utk) == sessions_by_cookie([first, view, before, later], SessionPolicy())[view.utk]
    assert len(reader.shown) == 3


@pytest.mark.usefixtures("_sizes")
@few
@given(data=st.data(), events=colliding_events(kinds=ACTIVITY, copies=False, max_size=30), policy=policies)
def test_many_cookies_at_once(data: st.DataObject, events: list[Event], policy: SessionPolicy) -> None:
    """Mostly in order, as usual, now and then something twice or late."""
    ordered = sorted(events, key=lambda event: (event.occurred_at, event.event_id))
    for place in data.draw(st.lists(st.integers(0, max(0, len(ordered) - 1)), max_size=4)) if ordered else ():
        ordered.append(ordered.pop(place) if data.draw(st.booleans(), label="late, or twice") else ordered[place])
    reader = Reader(policy)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ordered)), max_size=6)))
    for begin, end in zip([0, *cuts], [*cuts, len(ordered)], strict=True):
        if data.draw(st.integers(0, 4)) == 0:
            reader.restart()
        reader.add(arrived(ordered[begin:end], None))
    expected = sessions_by_cookie(what_counts(events), policy)
    assert {cookie: reader.sessions(1, cookie) for cookie in expected} == expected
    assert len(reader.shown) == sum(map(len, expected.values()))
    reader.shown.clear()
    reader.add_everything()
    assert {cookie: reader.sessions(1, cookie) for cookie in expected} == expected


@pytest.mark.usefixtures("_sizes")
@few
@given(
    data=st.data(),
    steps=st.lists(st.tuples(st.integers(0, 6 * HOUR), st.integers(0, DAY)), min_size=1, max_size=25),
    max_events=st.sampled_from((3, 1_000)),
)
def test_retention_never_changes_the_result_for_events_inside_it(
    data: st.DataObject, steps: list[tuple[int, int]], max_events: int
) -> None:
    """Events up to a day out of order, a retention of a day: forgetting leaves the sessions as if nothing were forgotten.

    With a limit of few events only what comes in order stays inside.
    """
    in_order = max_events < len(steps)
    at = int(START)
    arriving: list[tuple[int, Event]] = []
    for number, (step, delay) in enumerate(steps):
        at += step
        view = page_view(number, at=at, url=f"https://x.io/{number}?utm_source=s{number % 3}", new_browser_session=number % 7 == 0)
        arriving.append((at + (0 if in_order else delay), view))
    views = [view for _, view in sorted(arriving, key=lambda pair: (pair[0], pair[1].event_id))]
    reader = Reader(SessionPolicy(), Retention(DAY, max_events))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(views)), max_size=6)))
    for begin, end in zip([0, *cuts], [*cuts, len(views)], strict=True):
        if data.draw(st.integers(0, 3)) == 0:
            reader.restart()
        reader.add(arrived(views[begin:end], None))
    [(cookie, expected)] = sessions_by_cookie(views, SessionPolicy()).items()
    assert (reader.sessions(1, cookie), reader.late) == (expected, 0)


def in_batches(reader: Reader, batches: Iterable[Sequence[Event]]) -> None:
    for batch in batches:
        reader.add(arrived(batch, utk("a")))


def test_an_event_before_what_is_forgotten_is_late_and_counted() -> None:
    """It changes no session; a replay will set it right."""
    reader = Reader(SessionPolicy(), Retention(DAY, 1_000))
    views = [page_view(n, at=START + n * DAY) for n in range(4)]
    in_batches(reader, [[view] for view in [*views[1:], views[0]]])
    assert (len(reader.shown), reader.late) == (3, 1)


@pytest.mark.parametrize("number", [0, 1], ids=["first", "last"])
def test_a_copy_of_what_a_forgotten_session_began_or_ended_with_begins_no_other(number: int) -> None:
    """It says a later time than it did. Another session with the same id, that of its first event, would take the first one's place."""
    reader = Reader(SessionPolicy(), Retention(DAY, 1_000))
    in_batches(reader, [[page_view(0), page_view(1, at=START + HOUR // 4)], [page_view(2, at=START + 4 * DAY)]])
    reader.restart()
    in_batches(reader, [[page_view(number, at=START + 5 * DAY)]])
    assert [session.started_at for session in reader.sessions(1, utk("a"))] == [START, START + 4 * DAY]
    assert reader.late == 1


def test_a_retraction_of_what_may_be_forgotten_is_counted_as_late_once() -> None:
    reader = Reader(SessionPolicy(), Retention(DAY, 1_000))
    in_batches(reader, [[page_view(n, at=START + n * DAY)] for n in range(4)])
    undo = retraction(9, at=START + 4 * DAY, retracts=0)
    in_batches(reader, [[undo], [undo]])
    assert (len(reader.shown), reader.late) == (4, 1)


def test_state_forgets_what_is_older_than_the_retention() -> None:
    """Only the last day's events stay, with the fold's state before them; also for the next owner."""
    reader = Reader(SessionPolicy(), Retention(DAY, 1_000))
    in_batches(reader, [[page_view(n, at=START + n * 12 * HOUR) for n in range(10)]])
    [item] = reader.items.values()
    block = blocks.decoded(item)
    assert len(block.rows) == 3
    assert block.bases["number"].tolist() == [7]
    reader.restart()
    in_batches(reader, [[page_view(10, at=START + 10 * 12 * HOUR)]])
    assert [session.number for session in reader.sessions(1, utk("a"))] == list(range(1, 12))


def test_the_same_again_writes_nothing() -> None:
    reader = Reader(SessionPolicy())
    views: list[Any] = [page_view(n, at=START + n) for n in range(5)]
    in_batches(reader, [views])
    changed = reader.add(arrived([*views, *views], utk("a")))
    assert (len(changed.sessions), changed.removed, changed.items) == (0, [], {})


def test_the_changelog_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand batches of one event are a few blocks, each event in one of them; what robots have done long ago leaves it."""
    monkeypatch.setattr(history, "_COMPACTED_ROWS", 100)
    reader = Reader(SessionPolicy(), Retention(DAY, 100))
    for number in range(1_000):
        reader.add(arrived([page_view(number, at=START + number * 60_000, utk=str(number % 3))], None))
    read = [blocks.decoded(value) for value in reader.items.values()]
    ids = [id_ for block in read for id_ in block.rows["id"].tolist()]
    assert len(read) < 40
    assert len(set(ids)) == len(ids) < 2 * 3 * 125 + 100


def test_long_texts_are_cut_into_records_that_kafka_takes() -> None:
    reader = Reader(SessionPolicy())
    views = [page_view(number, at=START + number, url=f"https://x.io/{number}/{'%x' % (7**4_000 * (number + 1))}") for number in range(300)]
    in_batches(reader, [views])
    assert len(reader.items) > 1
    assert max(map(len, reader.items.values())) < 300_000
    reader.restart()
    assert reader.add(arrived(views, utk("a"))).items == {}


def test_what_comes_in_vain_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same event again and again, and events that are late, each with an address of its own."""
    monkeypatch.setattr(history, "_COMPACTED_ROWS", 50)
    reader = Reader(SessionPolicy(), Retention(DAY, 1_000))
    in_batches(reader, [[custom_event(1, utk="a"), page_view(2, at=START + 9 * DAY)]])
    for number in range(300):
        in_batches(
            reader, [[custom_event(3, utk="a", at=START + 9 * DAY + 1), page_view(number + 10, at=START - 1, url=f"https://x.io/{number}")]]
        )
    memory = reader._history._memory
    assert reader.late == 300
    assert len(memory.words.texts) < 100
    assert len(memory.names().copies) < 100


def test_a_history_is_in_no_cycle() -> None:
    """A rebuild has one after the other, and looks for no cycles."""
    gc.disable()
    try:
        whole = History(SessionPolicy(), FOREVER)
        whole.add(arrived([page_view(1, url="https://x.io/?gclid=1", referrer="https://y.io/"), custom_event(2)], utk("a")))
        parts = [weakref.ref(part) for part in (whole, whole._memory, whole._memory.words)]
        del whole
        assert [part() for part in parts] == [None] * 3
    finally:
        gc.enable()
