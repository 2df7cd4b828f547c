"""What waits on disk is what a live worker would have folded in."""

from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.adapters import raw_batch
from pipeline.adapters.avro import Registry
from pipeline.bulk import activity
from pipeline.core.events import Event
from pipeline.core.policy import SessionPolicy
from pipeline.core.sessions import Retention
from pipeline.history.arrivals import Arrivals, arrivals, together
from pipeline.history.history import History
from pipeline.settings import Settings
from tests.builders import DAY, HOUR, utk
from tests.strategies import colliding_events

retentions = st.builds(Retention, st.sampled_from((HOUR, 10_000 * DAY)), st.sampled_from((3, 1_000_000)))


@pytest.fixture(scope="module", params=[64, 0], ids=["read one at a time", "read in columns"])
def registry(request: pytest.FixtureRequest) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_batch, "FEW", request.param)
        yield Registry(Settings())


few = hypothesis_settings(max_examples=50, phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink))
"""An example takes tens of milliseconds: columns cost that much to begin with."""


@few
@given(
    events=colliding_events(portals=2, max_size=12),
    strays=st.lists(st.tuples(st.integers(0, 20), st.sampled_from(("cookie-0", "cookie-1"))), max_size=2),
    retention=retentions,
)
def test_a_bucket_is_what_a_worker_makes_of_it(
    registry: Registry, events: list[Event], strays: list[tuple[int, str]], retention: Retention
) -> None:
    """Copies, and events under the key of another cookie included."""
    given_records = [((event.utk or event.event_id).encode(), event) for event in events]
    given_records += [(utk(cookie).encode(), events[number % len(events)]) for number, cookie in strays if events]
    keys, values = [key for key, _ in given_records], [registry.encode_event(event) for _, event in given_records]
    batches = registry.decode_events(values).batches
    spilled = [activity.rows(batch, keys, values) for batch in batches]
    rows = pl.concat(spilled) if spilled else pl.DataFrame(schema=activity.ROW)
    assert rows.schema == pl.Schema(activity.ROW)
    live = together(arrivals(batch, keys) for batch in batches)
    assert said([activity.arrivals(rows, registry)], retention) == said([live], retention)


def said(batches: Sequence[Arrivals], retention: Retention) -> list[tuple[object, ...]]:
    """The sessions that a new worker says there are."""
    history = History(SessionPolicy(), retention)
    changes = [history.add(batch) for batch in batches]
    assert not any(change.removed for change in changes)
    return sorted((row for change in changes for row in history.frame(change).iter_rows()), key=repr)


def test_no_rows_are_no_sessions(registry: Registry) -> None:
    assert said([activity.arrivals(pl.DataFrame(schema=activity.ROW), registry)], Retention(DAY, 10)) == []
