"""What becomes of a hit: an event, or nothing, and how much of it consent lets through."""

import json
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.events import Event, FormSubmission, Millis, PageView, PortalId
from pipeline.edge.core import forms, hits
from pipeline.edge.core.addresses import IpPolicy
from pipeline.edge.core.consent import Mode
from pipeline.edge.core.hits import Dropped, Request, event_of
from pipeline.edge.core.plain_hits import plain_events
from pipeline.edge.core.portal import IdentifyMode, Portal
from tests.builders import DAY, START, utk
from tests.edge.deciding import ASKING, CANARIES, PERSON, SITE, YES, hit_like, json_values, made, view


def test_a_page_view() -> None:
    """What the script says is kept; what only the collector knows is not taken from it."""
    hit = view(
        utk=utk("u"),
        title="A",
        url="https://www.site.example/a?token=1#x",
        referrer="https://search.example/?q=ann@x.io",
        hstc="rubbish",
        hssc="1.2.3",
        new_browser_session=True,
        ip="1.2.3.4",
        received_at=1,
        portal_id=9,
        user_agent="forged",
        properties={"canonical": "https://www.site.example/"},
    )
    event = made(hit)
    assert isinstance(event, PageView)
    assert (event.portal_id, event.received_at, event.ip, event.user_agent) == (7, START, "203.0.113.0", PERSON.user_agent)
    assert (event.url, event.referrer) == ("https://www.site.example/a", "https://search.example/")
    assert (event.hstc, event.hssc, event.new_browser_session) == (None, "1.2.3", True)
    assert event.properties == '{"canonical":"https://www.site.example/"}'


EVERYTHING = view(
    utk=utk("canary"),
    title="Hello canary@x.io",
    url="https://www.site.example/a/canary@x.io?mail=canary@x.io&utm_source=mail",
    referrer="https://other.example/canary@x.io?x=1",
    hstc=f"1.{utk('canary')}.1.1.1.1",
    email="canary@x.io",
    name="bought",
    properties={"email": "canary@x.io", "messages_utk": utk("canary")},
)


@pytest.mark.parametrize("claim", [None, {"analytics": False}, {"analytics": "true"}, {"analytics": 1}, "yes", [True]])
@pytest.mark.parametrize("kind", ["page_view", "custom_event"])
def test_after_a_no_nothing_personal_is_left(kind: str, claim: object) -> None:
    """No claim but the explicit yes opens an opt-in portal; what goes on has no trace of the visitor."""
    event = made(EVERYTHING | {"type": kind, "consent": claim}, ASKING)
    text = repr(event)
    assert not [canary for canary in CANARIES if canary in text]
    assert event.utk is None
    if isinstance(event, PageView):
        assert event.url == "https://www.site.example/a/-?utm_source=mail"
        assert event.referrer == "https://other.example/"
        assert event.properties == '{"device":"mobile"}'


def test_a_no_drops_identify_and_keeps_the_form() -> None:
    """Who sends a form says what is in it; the cookie, the address and the browser stay out."""
    assert event_of(view(type="identify", utk=utk("u"), email="ann@x.io"), ASKING, PERSON) is Dropped.NO_CONSENT
    form = {
        "type": "form_submission",
        "form_id": "f",
        "email": "ann@x.io",
        "page_url": "https://www.site.example/a?b=c",
        "utk": utk("canary"),
    }
    event = made(view(**form), ASKING)
    assert isinstance(event, FormSubmission)
    assert (event.email, event.utk, event.ip, event.user_agent) == ("ann@x.io", None, None, None)
    assert event.page_url == "https://www.site.example/a"


def test_the_teams_own_addresses_are_left_out_of_page_views() -> None:
    """Not of what somebody did on purpose: a form, caught or posted."""
    portal = replace(SITE, exclude_ips=(ip_network("203.0.113.0/24"),))
    assert event_of(view(), portal, PERSON) is Dropped.EXCLUDED_IP
    assert isinstance(event_of(view(), portal, PERSON._replace(ip="203.0.114.77")), PageView)
    made(view(type="form_submission", form_id="f", page_url="https://www.site.example/"), portal)
    posted = forms.event_of(forms.of_html([("email", "ann@x.io")], None), portal, "f", PERSON, view()["event_id"])
    assert isinstance(posted, FormSubmission)


@pytest.mark.parametrize(("policy", "kept"), [("shortened", "203.0.113.0"), ("full", "203.0.113.77"), ("none", None)])
def test_the_portal_says_how_much_of_an_address_is_kept(policy: str, kept: str | None) -> None:
    """Of whoever sees a page, sends a form or follows a link."""
    portal = replace(SITE, ip=IpPolicy(policy))
    form = made(view(type="form_submission", form_id="f", page_url="https://www.site.example/"), portal)
    assert [made(view(), portal).ip, form.ip, hits.clicker(portal, PERSON)["ip"]] == [kept] * 3


@pytest.mark.parametrize(
    ("occurred_at", "sent_at", "moment", "mark"),
    [
        (START + 9 * DAY - 1_000, START + 9 * DAY, START - 1_000, None),
        (START + 2 * DAY, None, START, '{"clock":"out_of_range"}'),
        (START - 32 * DAY, START, START, '{"clock":"out_of_range"}'),
        (None, START, START, '{"clock":"missing"}'),
    ],
)
def test_a_clock_that_cannot_be_believed_is_marked(occurred_at: Any, sent_at: Any, moment: int, mark: str | None) -> None:
    """One that is only wrong is corrected, silently."""
    event = made(view(occurred_at=occurred_at, sent_at=sent_at))
    assert (event.occurred_at, event.received_at, event.properties) == (moment, START, mark)


def test_the_browsers_objection_counts() -> None:
    """Global Privacy Control is a no to analytics in opt_out, unless the portal says that it is not, or the visitor did."""
    portal = Portal(PortalId(7), ("site.example",), mode=Mode.OPT_OUT)
    objecting = PERSON._replace(gpc=True)
    assert made(view(utk=utk("u")), portal, objecting).utk is None
    assert made(view(utk=utk("u"), consent=YES), portal, objecting).utk == utk("u")
    assert made(view(utk=utk("u")), Portal(PortalId(7), ("site.example",), mode=Mode.OPT_OUT, honour_gpc=False), objecting).utk == utk("u")


@pytest.mark.parametrize(("answer", "owner"), [(YES, utk("u")), ({"analytics": False}, None)])
def test_an_answer_is_an_event(answer: dict[str, bool], owner: str | None) -> None:
    """The timeline shows each answer; whose it is, only after a yes."""
    event = made(view(type="custom_event", name="consent", utk=utk("u"), consent=answer, properties={"email": "canary@x.io"}), ASKING)
    assert event.utk == owner
    assert json.loads(event.properties) == answer | {"mode": "opt_in", "version": "1"}


def test_robots_are_counted_as_nobody() -> None:
    event = made(view(utk=utk("u")), request=PERSON._replace(bot="crawler"))
    assert (event.utk, event.properties) == (None, '{"bot":"crawler"}')


def test_signed_identify() -> None:
    """Where the site signs, only what it signed identifies: this email, this portal, until then."""
    portal = Portal(PortalId(7), ("site.example",), mode=Mode.OFF, identify=IdentifyMode.SIGNED, server_key=b"key")
    signature = hits.signature_of(b"key", 7, "ann@x.io", None, START + 1)
    hit = view(type="identify", utk=utk("u"), email="ann@x.io", expires=START + 1, signature=signature)
    assert made(hit, portal).email == "ann@x.io"
    for change in ({"email": "bob@x.io"}, {"signature": ""}, {"signature": None}, {"expires": START + 2}, {"external_id": "4"}):
        assert event_of(hit | change, portal, PERSON) is Dropped.UNSIGNED, change
    assert event_of(hit, portal, PERSON._replace(received_at=Millis(START + 1))) is Dropped.UNSIGNED
    assert event_of(hit, Portal(PortalId(8), portal.domains, identify=IdentifyMode.SIGNED, mode=Mode.OFF, server_key=b"key"), PERSON) is (
        Dropped.UNSIGNED
    )


@given(json_values | st.builds(lambda kind, hit: {"type": kind} | hit, st.sampled_from(sorted(hits._MADE)), hit_like))
def test_no_hit_breaks_the_collector(hit: Any) -> None:
    """Whatever a browser sends becomes an event or a reason."""
    assert isinstance(event_of(hit, SITE, PERSON), Event | str)


SENT = {"sent_at": START + 7_000}
AS_SENT = view(
    consent=YES,
    utk=utk("u"),
    title="A",
    url="https://www.site.example/a?mail=ann@x.io&b=1",
    referrer="https://search.example/",
    properties={"canonical": "https://www.site.example/"},
    hstc=f"1.{utk('u')}.1.1.1.1",
    hssc="1.2.3",
    new_browser_session=True,
)
"""A page view with all that the script writes."""
PORTALS = [
    SITE,
    ASKING,
    Portal(PortalId(7), ("site.example",), mode=Mode.OPT_OUT),
    Portal(PortalId(7), ("site.example",), mode=Mode.OFF, exclude_ips=(ip_network("203.0.113.0/24"),)),
]
altered = st.builds(
    lambda changes, without: {name: value for name, value in (AS_SENT | changes).items() if name not in without},
    st.dictionaries(
        st.sampled_from([*AS_SENT, "email", "sent_at", "portal_id"]),
        json_values
        | st.sampled_from(["", {}, utk("v"), START, START + 40 * 86_400_000, "page_view", {"analytics": False}, {"a": 1, "b": [2]}]),
        max_size=3,
    ),
    st.sets(st.sampled_from(sorted(AS_SENT)), max_size=2),
)
"""Page views as the script sends them, but for something."""


@given(
    st.lists(altered, max_size=3),
    st.sampled_from([{}, SENT, {"sent_at": None}, {"sent_at": "x"}, {"type": "carry"}]),
    st.sampled_from(PORTALS),
    st.sampled_from(
        [PERSON, PERSON._replace(gpc=True), PERSON._replace(dnt=True), PERSON._replace(bot="crawler"), PERSON._replace(ip=None)]
    ),
)
@example([AS_SENT], SENT, ASKING, PERSON)
@example([AS_SENT | {"consent": {"analytics": True}}], SENT, ASKING, PERSON)
@example([AS_SENT | {"consent": None}], SENT, ASKING, PERSON)
def test_the_fast_way_agrees_with_the_general_one(sent: list[Any], about: dict[str, Any], portal: Portal, request_: Request) -> None:
    """What is read at once becomes the same events as hit by hit; it is never read at once where one hit becomes none."""
    try:
        body = orjson.dumps({"hits": sent} | about)
    except orjson.JSONEncodeError:
        return
    events = plain_events(body, portal, request_)
    if events is not None:
        assert about.get("type") is None
        given = orjson.loads(body)
        assert list(events) == [event_of(hit, portal, request_, given.get("sent_at")) for hit in given["hits"]]


@pytest.mark.parametrize(
    "text", ['{"hits":[%s,"type":"identify"}]}', '{"type":"adopt","hits":[%s}]}', '{"hits":[%s}],"hits":[{"type":"identify"}]}']
)
def test_names_that_stand_twice_are_nothing_for_the_fast_way(text: str) -> None:
    """Two readers of JSON could take another of the two for the one that counts."""
    assert plain_events((text % orjson.dumps(AS_SENT)[:-1].decode()).encode(), SITE, PERSON) is None


def test_what_the_script_sends_takes_the_fast_way() -> None:
    """With all members, and with the fewest."""
    for hit, portal in ((AS_SENT, ASKING), (view(consent=None, title="", properties={}), SITE)):
        assert plain_events(orjson.dumps({"hits": [hit]} | SENT), portal, PERSON) == [event_of(hit, portal, PERSON, SENT["sent_at"])]
