"""The fold in columns is the core's, for many cookies, from any state on."""

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.events import NOT_COMPARED, Event, PageView
from pipeline.core.policy import Duration, SessionPolicy
from pipeline.core.sessions import Activity, Session, activity_of, fold, traffic_source
from pipeline.history import folding
from pipeline.history.shapes import NEVER, ROW, SESSION, SESSION_TEXTS, TEXTS, Rows, Sessions, id_texts, ids_of
from pipeline.history.words import Words
from tests.builders import MINUTE
from tests.strategies import colliding_events

policies = st.builds(SessionPolicy, st.sampled_from((Duration(0), Duration(MINUTE), Duration(30 * MINUTE))), st.booleans())


@given(data=st.data(), events=colliding_events(portals=1, copies=False, max_size=25), policy=policies)
def test_columns_equal_the_core(data: st.DataObject, events: list[Event], policy: SessionPolicy) -> None:
    words = Words()
    cookies: dict[str, list[Activity]] = {}
    for event in events:
        if (activity := activity_of(event)) is not None:
            cookies.setdefault(str(event.utk), []).append(activity)
    befores: list[Session | None] = []
    later: list[list[Activity]] = []
    expected: list[list[Session]] = []
    for activity_of_cookie in map(sorted, cookies.values()):
        cut = data.draw(st.integers(0, len(activity_of_cookie)))
        before = fold(activity_of_cookie[:cut], policy)[-1] if cut else None
        befores.append(before)
        later.append(activity_of_cookie[cut:])
        expected.append(fold(activity_of_cookie[cut:], policy, before))
    rows = rows_of(later, words)
    states = sessions_of(befores, words)
    folded = folding.fold(rows, rows["cookie"].astype(np.int64), states, policy, words)
    whole = folded.with_bases(states)
    found: list[list[Session]] = [[] for _ in cookies]
    for cookie, session in sorted(
        zip(whole.cookies.tolist(), as_sessions(whole.sessions, words), strict=True), key=lambda pair: (pair[0], pair[1].number)
    ):
        found[cookie].append(session)
    assert found == expected
    last = [of_cookie[-1] if of_cookie else None for of_cookie in expected]
    assert folded.last(states).tobytes() == sessions_of(last, words).tobytes()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                URLS := (
                    "https://a.io/",
                    "https://A.io:8080/x?utm_source=s&utm_medium=",
                    "https://b.io/?gclid=1#?utm_source=x",
                    "http://[::1]/?fbclid=%31",
                    "https://b.io/?utm_campaign=%20",
                )
            ),
            st.sampled_from((None, "https://a.io/y", "https://b.io:1/", "android-app://com.x", "nonsense", *URLS)),
        )
    )
)
def test_sources_equal_the_core(views: list[tuple[str, str | None]]) -> None:
    words = Words()
    urls, referrers = words.numbers([url for url, _ in views]), words.numbers([referrer for _, referrer in views])
    assert [words.texts[source] for source in words.sources(urls, referrers).tolist()] == [traffic_source(*view) for view in views]


def rows_of(activities: list[list[Activity]], words: Words) -> Rows:
    rows = np.zeros(sum(map(len, activities)), ROW)
    place = 0
    for cookie, activity in enumerate(activities):
        for at, event_id, url, referrer, starts in activity:
            rows[place : place + 1]["id"] = ids_of([event_id])
            rows["cookie"][place], rows["at"][place], rows["is_active"][place], rows["starts"][place] = cookie, at, True, starts
            rows["url"][place], rows["referrer"][place] = words.number(url), words.number(referrer)
            place += 1
    return rows


def sessions_of(sessions: list[Session | None], words: Words) -> Sessions:
    found = np.zeros(len(sessions), SESSION)
    for place, session in enumerate(sessions):
        if session is not None:
            for name, value in msgspec.structs.asdict(session).items():
                if name.endswith("_id"):
                    found[name][place : place + 1] = ids_of([value])
                else:
                    found[name][place] = words.number(value) if name in SESSION_TEXTS else NEVER if value is None else value
    return found


def as_sessions(sessions: Sessions, words: Words) -> list[Session]:
    found = []
    for place in range(len(sessions)):
        values = dict(zip(SESSION.names or (), sessions[place].tolist(), strict=True))
        values |= {name: words.texts[values[name]] for name in SESSION_TEXTS}
        values |= {name: id_texts(sessions[name][place : place + 1])[0] for name in ("first_event_id", "last_event_id")}
        values["previous_started_at"] = None if values["previous_started_at"] == NEVER else values["previous_started_at"]
        found.append(Session(**values))
    return found


def test_rows_have_all_that_is_compared_of_a_page_view() -> None:
    """A row without copies stands for its page view: copies that differ in a field that it lacks would be taken for equal."""
    same_for_all = {"event_id", "portal_id", "utk"}
    assert {*TEXTS, "new_browser_session"} == {*PageView.__struct_fields__} - NOT_COMPARED - same_for_all
