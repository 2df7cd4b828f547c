"""The views say what `resolve` says, whatever the order in which rows came."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from uuid import UUID

import msgspec
import pytest
from clickhouse_driver import Client

from pipeline.adapters import clickhouse, derived_rows, event_copies, event_rows, failed_rows, retracting
from pipeline.adapters.avro import EventColumns, Registry
from pipeline.adapters.dead_letters import Headers
from pipeline.core.copies import merge
from pipeline.core.events import Event
from pipeline.core.outcomes import Refused
from pipeline.core.parsing import parse_line
from pipeline.core.policy import Policy
from pipeline.resolve import Resolution, resolve_events, resolve_lines
from pipeline.settings import Settings
from tests.adapters.meaning import NO_MERGES, key_of, sessions, write, write_meaning
from tests.builders import (
    MINUTE,
    START,
    contact_import,
    contact_merge,
    custom_event,
    email_click,
    event_id,
    form_submission,
    page_view,
    retraction,
    utk,
)
from tests.end_to_end.collisions import collisions
from tests.end_to_end.reading import resolution_in_clickhouse

VIEWS = ("contacts", "links", "sessions", "event_owners", "events", "timeline", "failed_events", "retracted_events")


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    clickhouse.migrate(settings)
    client = clickhouse.connect(settings)
    yield client
    client.disconnect()


def arrive(client: Client, registry: Registry, events: Iterable[Event], check: int = 1) -> list[event_copies.Published]:
    """Inserts the events as `record` does and settles their copies and retractions; what was published on the way."""
    by_type: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_type[event.type].append(event)
    for name, same_type in by_type.items():
        batch = EventColumns(name, list(range(len(same_type))), same_type)
        event_rows.insert(client, event_rows.arrivals(batch, [0] * len(same_type), list(range(len(same_type))), check))
    published: list[event_copies.Published] = []
    event_copies.settle(client, check, registry.encode_event, published.extend)
    retracting.settle(client, check, registry.encode_event, published.extend)
    return published


def know(client: Client, registry: Registry, *events: Event, check: int = 1) -> Resolution:
    """Events, and what they mean."""
    arrive(client, registry, events, check)
    resolution = resolve_events([merge(copies).event for copies in by_id(events)], Policy())
    write_meaning(client, registry, resolution)
    return resolution


def by_id(events: Sequence[Event]) -> list[list[Event]]:
    copies: dict[tuple[int, str], list[Event]] = defaultdict(list)
    for event in events:
        copies[event.portal_id, event.event_id].append(event)
    return list(copies.values())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_views_equal_resolve_for_events_that_collide(settings: Settings, client: Client, registry: Registry, seed: int) -> None:
    """3,000 lines with repeated, incomplete, resent and conflicting copies, in 20 batches in an order of their own."""
    lines = collisions(3_000, seed)
    random.Random(seed).shuffle(lines)
    events = [event for event in map(parse_line, lines) if not isinstance(event, Refused)]
    for number in range(20):
        arrive(client, registry, events[number::20], check=number + 1)
    expected = resolve_lines(enumerate(lines, 1), Policy())
    write_meaning(client, registry, expected)

    seen = resolution_in_clickhouse(settings)
    assert seen.contacts == expected.contacts
    assert seen.links == expected.links
    assert seen.sessions == expected.sessions
    assert seen.events == expected.events
    assert client.execute("SELECT count() FROM events") == [(len(expected.events),)]
    everything = client.execute("SELECT uniqExact(portal_id, event_id) FROM event_rows")
    assert client.execute(f"SELECT count() + {len(expected.events)} FROM retracted_events") == everything
    assert Counter(row.detail for row in seen.rejected) == Counter(row.detail for row in expected.rejected)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
def test_an_event_is_one_row_in_whatever_order_its_copies_come(client: Client, registry: Registry, order: tuple[int, ...]) -> None:
    """A click without its cookie, the same with it and later, and one that contradicts both."""
    copies = [
        email_click(1, at=START, utk=None, ip="192.0.2.0"),
        email_click(1, at=START + 5, utk="a", ip="198.51.100.0"),
        email_click(1, at=START - 5, utk=None, send_id="another"),
    ]
    for check, position in enumerate(order, 1):
        arrive(client, registry, [copies[position]], check)
    columns = "toUnixTimestamp64Milli(occurred_at), utk, send_id, ip"
    assert client.execute(f"SELECT {columns} FROM events") == [(START, utk("a"), "send-1", "192.0.2.0")]
    assert client.execute("SELECT reason, topic, event_id = %(id)s FROM failed_events", {"id": event_id(1)}) == [
        ("conflicting_duplicate", "email-clicks", 1)
    ]


def test_a_contradiction_ends_when_the_copy_that_it_was_measured_by_contradicts_itself(client: Client, registry: Registry) -> None:
    """Which copies conflict is a function of the set: the row comes and goes."""
    poor, other = page_view(1, title=None, url="https://x.io/1"), page_view(1, title="T", url="https://x.io/2")
    rich = page_view(1, title="U", referrer="https://y.io/", url="https://x.io/1")
    arrive(client, registry, [poor, other], 1)
    assert client.execute("SELECT count() FROM failed_events") == [(1,)]
    arrive(client, registry, [rich], 2)
    assert client.execute("SELECT url, title FROM events") == [("https://x.io/1", "U")]
    assert client.execute("SELECT count() FROM failed_events") == [(1,)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
def test_a_contradicting_copy_that_came_several_times_is_told_from_its_first_place(
    client: Client, registry: Registry, order: tuple[int, ...]
) -> None:
    """In whatever order they were recorded, in one block or several, as long as ClickHouse has not merged their rows."""
    client.execute(NO_MERGES)
    rich, poor = page_view(1, title="T", referrer="https://y.io/"), page_view(1, title="U")
    places = [(0, 7), (1, 3), (1, 5)]
    for block in ([places[at] for at in order[:2]], [places[at] for at in order[2:]]):
        batch = EventColumns("page_view", list(range(len(block))), [poor] * len(block))
        partitions, offsets = zip(*block, strict=True)
        event_rows.insert(client, event_rows.arrivals(batch, partitions, offsets, check=1))
    arrive(client, registry, [rich])
    assert client.execute("SELECT partition, offset FROM failed_events") == [(0, 7)]


def test_redelivery_changes_nothing(client: Client, registry: Registry) -> None:
    events = [page_view(1), page_view(1, title="T"), form_submission(2, email="a@x.io")]
    arrive(client, registry, events, 1)
    before = [client.execute(f"SELECT * FROM {view} ORDER BY ALL") for view in ("events", "failed_events")]
    published = arrive(client, registry, events, 2)
    assert published == []
    assert [client.execute(f"SELECT * FROM {view} ORDER BY ALL") for view in ("events", "failed_events")] == before


def test_copies_under_two_cookies_are_published_for_both(client: Client, registry: Registry) -> None:
    under_a, under_b = page_view(1, utk="a"), page_view(1, utk="b")
    published = arrive(client, registry, [under_a, under_b, page_view(2, utk="a")])
    assert sorted(published) == sorted(
        [
            event_copies.Published("event-copies", utk("a").encode(), registry.encode_event(under_b)),
            event_copies.Published("event-copies", utk("b").encode(), registry.encode_event(under_a)),
        ]
    )


def test_each_copy_is_told_once_to_each_cookie(client: Client, registry: Registry) -> None:
    """A producer gives one id to all that it sends: every further copy is told to those before it, and those before to a new cookie."""
    copies = [page_view(1, utk=cookie, title=title) for title, cookie in zip("12345", "abcab", strict=True)]
    told = [published for number, copy in enumerate(copies) for published in arrive(client, registry, [copy], number + 1)]
    expected = {
        event_copies.Published("event-copies", utk(cookie).encode(), registry.encode_event(copy))
        for cookie in "abc"
        for copy in copies
        if copy.utk != utk(cookie)
    }
    assert sorted(told) == sorted(expected)
    assert client.execute("SELECT count() FROM events") == [(1,)]


def test_evidence_among_the_copies_of_a_page_view_is_told_of_all_of_them(client: Client, registry: Registry) -> None:
    """Identity has not seen the page views, which were no concern of its own until the form came."""
    views = [page_view(1, portal=7, title=title) for title in ("one", "two")]
    assert arrive(client, registry, views, 1) == []
    to_identity = [event_copies.Published("identity-evidence", b"7", registry.encode_event(view)) for view in views]
    assert sorted(arrive(client, registry, [form_submission(1, portal=7)], 2)) == sorted(to_identity)


def test_a_copy_without_cookie_is_published_for_the_cookie_of_the_other(client: Client, registry: Registry) -> None:
    """Sessions have to see that the event may not be the page view; a contact import has no cookie at all."""
    view, contact = page_view(1, portal=7), contact_import(1, portal=7)
    published = arrive(client, registry, [view, contact])
    assert published == [
        event_copies.Published("event-copies", utk("a").encode(), registry.encode_event(contact)),
        event_copies.Published("identity-evidence", b"7", registry.encode_event(view)),
    ]


def test_a_copy_that_is_no_evidence_is_published_for_identity(client: Client, registry: Registry) -> None:
    """The portal's fold has to see that the page view may win over the form."""
    form, view = form_submission(1, portal=7), page_view(1, portal=7)
    published = arrive(client, registry, [form, view])
    assert published == [event_copies.Published("identity-evidence", b"7", registry.encode_event(view))]


def test_a_retraction_and_what_it_retracts_meet_in_any_order(client: Client, registry: Registry) -> None:
    """The retracted rows are kept, in one view, and the cookie hears of it; a retraction of the retraction brings them back."""
    view, undo = page_view(1, at=START), retraction(2, at=START + 1)
    redo = retraction(3, at=START + 2, retracts=2)
    for_cookie = event_copies.Published("event-copies", utk("a").encode(), registry.encode_event(undo))
    assert arrive(client, registry, [undo], 1) == []
    assert arrive(client, registry, [view, page_view(4)], 2) == [for_cookie]
    assert client.execute("SELECT event_id FROM events ORDER BY event_id") == ids(2, 4)
    assert client.execute("SELECT event_id, type, utk, toString(retracted_by) FROM retracted_events") == [
        (*ids(1)[0], "page_view", view.utk, undo.event_id)
    ]
    published = arrive(client, registry, [redo], 3)
    assert sorted(published) == sorted([for_cookie, for_cookie._replace(value=registry.encode_event(redo))])
    assert client.execute("SELECT event_id FROM events ORDER BY event_id") == ids(1, 3, 4)
    assert client.execute("SELECT event_id FROM retracted_events") == ids(2)
    assert arrive(client, registry, [view, undo, redo], 4) == []


def test_the_later_copy_of_an_event_decides_whether_it_came_before_its_retraction(client: Client, registry: Registry) -> None:
    """The time of an event is that of its earliest agreeing copy."""
    arrive(client, registry, [page_view(1, at=START + 5), retraction(2, at=START)], 1)
    assert client.execute("SELECT event_id FROM events ORDER BY event_id") == ids(1, 2)
    arrive(client, registry, [page_view(1, at=START - 5)], 2)
    assert client.execute("SELECT event_id FROM events ORDER BY event_id") == ids(2)
    arrive(client, registry, [page_view(1, at=START - 5, utk="b", title="Another")], 3)
    assert client.execute("SELECT utk FROM retracted_events") == [(utk("b"),)]


def test_an_event_with_thousands_of_copies_may_be_retracted(client: Client, registry: Registry) -> None:
    """As a producer makes them that gives one id to all that it sends."""
    copies = [page_view(1, title=str(number)) for number in range(4_000)]
    arrive(client, registry, [*copies, retraction(2, at=START + 1)])
    assert client.execute("SELECT event_id FROM events") == ids(2)


def test_many_refused_records_may_be_looked_up_at_once(client: Client, settings: Settings) -> None:
    """A later generation asks which of those that it refuses have been buried before."""
    headers: Headers = [("dlq.reason", b"malformed_avro"), ("dlq.topic", b"page-views"), ("dlq.partition", b"0"), ("dlq.offset", b"9999")]
    failed_rows.insert(client, [failed_rows.dead_letter(b"k", b"no avro", headers)])
    ids = [f"page-views:0:{offset}" for offset in range(20_000)]
    assert failed_rows.known(client, [settings.database, "nowhere"], ids) == {"page-views:0:9999"}


def test_a_thousand_retractions_of_one_event_are_one_decision(client: Client, registry: Registry) -> None:
    """More than one query may name; and a chain that is as long."""
    many = [retraction(n, at=START + n) for n in range(2, 1_002)]
    chain = [retraction(n, at=START + n, retracts=n - 1) for n in range(3_001, 3_042)]
    arrive(client, registry, [page_view(1, at=START), *many, page_view(3_000, at=START), *chain])
    assert client.execute("SELECT count() FROM events") == [(len(many) + len(chain) // 2 + 1,)]


def ids(*numbers: int) -> list[tuple[UUID]]:
    return [(UUID(event_id(number)),) for number in numbers]


def test_a_session_begins_with_its_first_event_even_within_a_millisecond(settings: Settings, client: Client, registry: Registry) -> None:
    """Three sessions at one time: events belong to them in the order of their ids, which is that of the text."""
    ids = ["00000000-0000-4000-8000-0000000000ff", "00000000-0000-4000-9000-000000000001", "f0000000-0000-4000-8000-000000000000"]
    events = [msgspec.structs.replace(page_view(n, at=START, new_browser_session=n > 0), event_id=ids[n]) for n in range(3)]
    inside = msgspec.structs.replace(custom_event(9, at=START), event_id="a0000000-0000-4000-8000-000000000000")
    know(client, registry, *events, inside)
    numbers = client.execute("SELECT toString(event_id), session_number FROM event_owners ORDER BY toString(event_id)")
    assert numbers == [(ids[0], 1), (ids[1], 2), (inside.event_id, 2), (ids[2], 3)]


def test_an_event_after_the_end_of_a_session_that_forgot_it_is_in_no_session(client: Client, registry: Registry) -> None:
    """Live state may have forgotten a cookie's past: an event that no session contains has none."""
    know(client, registry, page_view(1, at=START))
    arrive(client, registry, [page_view(2, at=START + MINUTE)], check=2)
    assert client.execute("SELECT session_number FROM event_owners ORDER BY occurred_at") == [(1,), (None,)]


def test_evidence_whose_owner_is_not_there_yet_is_pending(client: Client, registry: Registry) -> None:
    arrive(client, registry, [form_submission(1, email="a@x.io"), page_view(2)])
    rows = client.execute("SELECT type, toString(rule), contact_id FROM event_owners ORDER BY type")
    assert rows == [("form_submission", "pending", None), ("page_view", "cookie.unknown", None)]


def test_what_is_gone_disappears_and_a_late_old_row_does_not_bring_it_back(client: Client, registry: Registry) -> None:
    resolution = know(client, registry, page_view(1))
    session = sessions(resolution)[0]
    derived_rows.insert(client, "sessions", [key_of("sessions", session)], [None], [5], registry.decode_columns)
    write(client, registry, "sessions", [session], first_offset=4)
    assert client.execute("SELECT count() FROM sessions") == [(0,)]
    assert client.execute("SELECT session_id FROM event_owners") == [(None,)]


def test_the_timeline_is_the_join_of_owners_events_sessions_and_contacts(client: Client, registry: Registry) -> None:
    form = form_submission(3, at=START + 2 * MINUTE, email="a@x.io", fields=[("firstname", "Ada"), ("firstname", "A.")])
    view = page_view(1, at=START, title="Home", properties={"plan": "pro"})
    know(client, registry, view, page_view(2, at=START + MINUTE, utk="b"), form)
    rows = client.execute(
        "SELECT type, session_number, toString(rule), toString(evidence), title, properties, form_id, fields, given_email FROM timeline "
        "WHERE portal_id = 1 AND email = 'a@x.io' ORDER BY occurred_at, toString(event_id)"
    )
    assert rows == [
        ("page_view", 1, "cookie.bound", form.event_id, "Home", '{"plan":"pro"}', None, [], None),
        ("form_submission", 1, "form.new_contact", None, None, None, "contact-us", [("firstname", "Ada"), ("firstname", "A.")], "a@x.io"),
    ]


def test_timeline_of_equals_timeline(client: Client, registry: Registry) -> None:
    """For a dozen contacts, and for the cookies with the most links."""
    lines = collisions(1_000, 4)
    events = [event for event in map(parse_line, lines) if not isinstance(event, Refused)]
    arrive(client, registry, events)
    write_meaning(client, registry, resolve_lines(enumerate(lines, 1), Policy()))
    columns = (
        "toString(event_id), toString(contact_id), email, toString(rule), toString(evidence), session_number, temporary_contact_id, url"
    )
    order = "ORDER BY occurred_at, toString(event_id)"
    whole = client.execute(f"SELECT portal_id, toString(contact_id), utk, {columns} FROM timeline {order}")
    some = client.execute("SELECT portal_id, toString(contact_id) FROM contacts WHERE merged_into IS NULL ORDER BY contact_id LIMIT 12")
    for portal, contact in some:
        narrow = client.execute(f"SELECT {columns} FROM timeline_of(portal = {portal}, contact = '{contact}', cookie = '') {order}")
        assert narrow == [row[3:] for row in whole if row[:2] == (portal, contact)] != []
    for portal, cookie in client.execute("SELECT portal_id, utk FROM links GROUP BY 1, 2 ORDER BY count() DESC, 2 LIMIT 6"):
        narrow = client.execute(f"SELECT {columns} FROM timeline_of(portal = {portal}, contact = '', cookie = '{cookie}') {order}")
        assert narrow == [row[3:] for row in whole if (row[0], row[2]) == (portal, cookie)] != []


def test_a_merge_is_in_the_timeline_of_the_contact_that_stays(client: Client, registry: Registry) -> None:
    know(
        client,
        registry,
        form_submission(1, at=START, email="a@x.io"),
        page_view(2, at=START, utk="b"),
        form_submission(3, at=START + 1, utk="b", email="b@x.io"),
        contact_merge(4, at=START + 2),
    )
    rows = client.execute("SELECT type, utk, primary, secondary FROM timeline WHERE email = 'a@x.io' ORDER BY occurred_at, event_id")
    a, b = utk("a"), utk("b")
    assert [row[:2] for row in rows] == [("form_submission", a), ("page_view", b), ("form_submission", b), ("contact_merge", None)]
    assert rows[-1][2:] == ("a@x.io", "b@x.io")
    assert client.execute("SELECT email, merged_into IS NULL FROM contacts ORDER BY email") == [("a@x.io", 1), ("b@x.io", 0)]


@pytest.mark.parametrize("nulls", [0, 1])
def test_views_do_not_depend_on_the_readers_join_use_nulls(client: Client, registry: Registry, nulls: int) -> None:
    know(client, registry, page_view(1), form_submission(2, at=START + 1, email="a@x.io"), page_view(3, utk="b"), page_view(4, utk=None))
    rows = client.execute(
        f"SELECT toString(rule), contact_id IS NULL, session_id IS NULL, evidence IS NULL FROM timeline ORDER BY ALL "
        f"SETTINGS join_use_nulls = {nulls}"
    )
    assert rows == [("cookie.bound", 0, 0, 0), ("cookie.unknown", 1, 0, 1), ("cookie.unknown", 1, 1, 1), ("form.new_contact", 0, 0, 1)]


def test_a_contacts_timeline_reads_a_few_granules(client: Client, registry: Registry) -> None:
    """Among 300,000 events, beside a portal's many page views without a cookie."""
    client.execute(
        "INSERT INTO event_arrivals (portal_id, utk, event_id, type, occurred_at, url) "
        "SELECT 1, if(number % 10 = 0, '', lower(hex(MD5(toString(number % 20000))))), toString(generateUUIDv4()), 'page_view', "
        "1700000000000 + number, 'https://x.io/' FROM numbers(300000)"
    )
    resolution = know(
        client, registry, page_view(1), page_view(2, utk="b"), form_submission(3, email="a@x.io", utk=None), email_click(4, utk="b")
    )
    contact = resolution.contacts[0].contact_id
    rows = client.execute(f"SELECT type FROM timeline_of(portal = 1, contact = '{contact}', cookie = '') ORDER BY type")
    assert rows == [("email_click",), ("form_submission",), ("page_view",)]
    assert client.last_query.progress.rows < 60_000


@pytest.mark.parametrize("view", VIEWS)
def test_every_column_of_every_view_has_a_comment(client: Client, view: str) -> None:
    columns = client.execute(f"DESCRIBE TABLE {view}")
    assert columns
    assert [name for name, _, _, _, comment, *_ in columns if not comment] == []


def test_every_column_of_every_table_has_a_comment(client: Client, settings: Settings) -> None:
    silent = client.execute(
        "SELECT table, name FROM system.columns WHERE database = %(db)s AND comment = '' AND table IN "
        "(SELECT name FROM system.tables WHERE database = %(db)s AND engine NOT IN ('View', 'MaterializedView'))",
        {"db": settings.clickhouse.database},
    )
    assert silent == []
