"""Columns come to what the core comes to: sessions, and the state that live workers go on from."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.adapters import raw_batch
from pipeline.adapters.avro import Registry
from pipeline.agents.sessionize import Visitors
from pipeline.agents.visitor import Cookie, Rules, Visitor
from pipeline.agents.words import Words
from pipeline.bulk import activity
from pipeline.bulk.columnar_sessions import COOKIE, ORDER, SESSION, sessions, with_source
from pipeline.bulk.visitors import known
from pipeline.core.copies import KEPT_BY_SESSIONS, trace
from pipeline.core.events import Event, PortalId, Utk
from pipeline.core.policy import Duration, SessionPolicy
from pipeline.core.sessions import Kept, Retention, activity_of, fold
from pipeline.settings import Settings
from tests.builders import DAY, HOUR, MINUTE, START, email_click, page_view, utk
from tests.strategies import colliding_events

FOREVER = Retention(10_000 * DAY, 1_000_000)
retentions = st.builds(Retention, st.sampled_from((HOUR, 2 * HOUR, 10_000 * DAY)), st.sampled_from((3, 1_000_000)))
policies = st.builds(SessionPolicy, st.sampled_from((Duration(30 * MINUTE), Duration(15 * MINUTE))), st.booleans())


@pytest.fixture(scope="module", params=[64, 0], ids=["read one at a time", "read in columns"])
def registry(request: pytest.FixtureRequest) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_batch, "FEW", request.param)
        yield Registry(Settings())


few = hypothesis_settings(max_examples=50, phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink))
"""An example takes tens of milliseconds: columns cost that much to begin with."""

Record = tuple[bytes, Event]


def records(events: Sequence[Event], strays: Sequence[tuple[int, str]]) -> list[Record]:
    """The events under their keys, and some again under the key of another cookie."""
    own = [((event.utk or event.event_id).encode(), event) for event in events]
    return own + [(utk(cookie).encode(), events[number % len(events)]) for number, cookie in strays if events]


def rows(registry: Registry, given_records: Sequence[Record]) -> pl.DataFrame:
    keys, values = [key for key, _ in given_records], [registry.encode_event(event) for _, event in given_records]
    batches = registry.decode_events(values).batches
    return pl.concat([activity.rows(batch, keys, values) for batch in batches]) if batches else pl.DataFrame(schema=activity.ROW)


def by_cookie(given_records: Sequence[Record]) -> dict[Cookie, list[Event]]:
    cookies: dict[Cookie, list[Event]] = defaultdict(list)
    for key, event in given_records:
        if len(key) == 32:
            cookies[event.portal_id, Utk(key.decode())].append(event)
    return cookies


def restored(items: Mapping[bytes, bytes]) -> dict[Cookie, Any]:
    """What a worker knows of each cookie that was written as these items: the fold's state before its events, and their copies.

    An event may be kept as it is or as a trace, which depends on the order of its copies and means the same.
    """
    visitors = Visitors(SessionPolicy(), FOREVER, lambda _, columns: [b""] * len(columns[0]))
    visitors.restore(items)
    return {
        cookie: (visitor.forgotten, {event_id: copies(kept) for event_id, kept in visitor.remembered(Words()).items()})
        for cookie, visitor in visitors._visitors.items()
    }


def copies(kept: Kept) -> list[Any]:
    traces = kept if isinstance(kept, tuple) else (trace(kept, KEPT_BY_SESSIONS),)
    return sorted((each.rank, each.occurred_at, sorted(each.fields.items())) for each in traces)


@few
@given(
    events=colliding_events(portals=2, max_size=12),
    strays=st.lists(st.tuples(st.integers(0, 20), st.sampled_from(("cookie-0", "cookie-1"))), max_size=2),
    policy=policies,
    retention=retentions,
)
def test_a_bucket_is_what_a_worker_makes_of_it(
    registry: Registry, events: list[Event], strays: list[tuple[int, str]], policy: SessionPolicy, retention: Retention
) -> None:
    """Copies, strays, forgetting and splitting sources included: for each cookie as if a worker had all of its events in one batch."""
    rules = Rules(policy, retention, Words())
    given_records = records(events, strays)
    found = known(rows(registry, given_records), rules, registry)
    expected_sessions: list[Any] = []
    expected_items: dict[bytes, bytes] = {}
    for (portal, cookie), of_cookie in by_cookie(given_records).items():
        written = Visitor((portal, cookie)).add(of_cookie, rules)
        expected_sessions += [(portal, cookie, *(getattr(session, name) for name in SESSION[2:])) for session in written.upserts]
        expected_items |= {f"{portal}|{cookie}|{number}".encode(): chunk for number, chunk in written.chunks.items() if chunk is not None}
        if written.forgotten is not None:
            expected_items[f"{portal}|{cookie}".encode()] = written.forgotten
    assert sorted(found.sessions.rows()) == sorted(expected_sessions)
    assert restored(found.items) == restored(expected_items)


@few
@given(events=colliding_events(portals=2, copies=False, max_size=20), gap=st.sampled_from((0, MINUTE, 30 * MINUTE)))
def test_columns_equal_the_fold(registry: Registry, events: list[Event], gap: int) -> None:
    """Each event once: sessions in columns are those of the core's fold."""
    plain = [event for event in events if activity_of(event) is not None]
    ordered = with_source(rows(registry, records(plain, [])).filter("is_active").sort(ORDER))
    expected = []
    for (portal, cookie), of_cookie in sorted(by_cookie(records(plain, [])).items()):
        found = fold(sorted(a for a in map(activity_of, of_cookie) if a is not None), SessionPolicy(Duration(gap)))
        expected += [(portal, cookie, *(getattr(session, name) for name in SESSION[2:])) for session in found]
    assert sessions(ordered, gap).rows() == expected


def test_no_rows_are_no_sessions(registry: Registry) -> None:
    found = known(pl.DataFrame(schema=activity.ROW), Rules(SessionPolicy(), FOREVER, Words()), registry)
    assert (found.sessions.height, found.items) == (0, {})


def test_exactly_the_gap_continues(registry: Registry) -> None:
    events = [page_view(1, at=START), page_view(2, at=START + 30 * MINUTE), page_view(3, at=START + 60 * MINUTE + 1)]
    found = known(rows(registry, records(events, [])), Rules(SessionPolicy(), FOREVER, Words()), registry)
    assert found.sessions.select("number", "activity_count").rows() == [(1, 2), (2, 1)]
    assert found.sessions.select(COOKIE).unique().rows() == [(PortalId(1), utk("a"))]


def test_a_robot_is_no_activity_and_remembered(registry: Registry) -> None:
    """A click of a machine starts no session, but a further copy of it may say that it was none."""
    found = known(rows(registry, records([email_click(1, utk="a", bot=True)], [])), Rules(SessionPolicy(), FOREVER, Words()), registry)
    assert found.sessions.is_empty()
    assert len(found.items) == 1
