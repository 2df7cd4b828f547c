"""The decisions of the edge, against the table that the script's tests read too, and against hostile input."""

import ast
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.edge.core
from pipeline.core.events import EmailClick, Event, FormSubmission, Millis, PageView, PortalId, Utk
from pipeline.edge.core import addresses, clock, cookies, forms, hits, links, sealing, urls, visitors
from pipeline.edge.core.consent import Mode, consent
from pipeline.edge.core.forms import ErrorType
from pipeline.edge.core.hits import Dropped, Request, event_of
from pipeline.edge.core.portal import Form, IdentifyMode, Portal
from tests.builders import DAY, MINUTE, START, event_id, utk
from tests.core.test_purity import ALLOWED, IMPURE_CALLS

CASES = json.loads(Path(__file__).with_name("cases.json").read_text(encoding="utf-8"))
KEYS = (bytes(range(32)), bytes(range(1, 33)))
NONCE = bytes(12)
SITE = Portal(PortalId(7), ("site.example",), mode=Mode.OFF, keys=KEYS[:1], server_key=b"of the site's server")
ASKING = Portal(PortalId(7), ("site.example",), mode=Mode.OPT_IN, keys=KEYS[:1])
PERSON = Request(START, ip="203.0.113.77", user_agent="Canary/1.0 (iPhone; Mobile)")
YES = {"analytics": True, "advertisement": True, "functionality": True}
CANARIES = (utk("canary"), "canary@x.io", "203.0.113.77", "Canary/1.0")


def cases(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", CASES[name], ids=lambda case: str(next(iter(case.values()))))


def view(**fields: Any) -> dict[str, Any]:
    """A page view as the script sends it."""
    return {"type": "page_view", "event_id": event_id(1), "occurred_at": START, "url": "https://www.site.example/a"} | fields


def made(hit: dict[str, Any], portal: Portal = SITE, request: Request = PERSON) -> Any:
    """The event of a hit that becomes one."""
    event = event_of(hit, portal, request)
    assert isinstance(event, Event), event
    return event


def test_core_is_pure() -> None:
    """The decisions see no network, clock, disk or chance; sealing gets its nonce."""
    allowed = ALLOWED | {"cryptography", "ipaddress", "hmac", "base64", "binascii", "enum"}
    for module in Path(pipeline.edge.core.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed or name.startswith(("pipeline.core", "pipeline.edge.core")), (module.name, name)
            if isinstance(node, ast.Call):
                assert getattr(node.func, "attr", getattr(node.func, "id", "")) not in IMPURE_CALLS


@cases("cookie_domain")
def test_cookie_domain(case: dict[str, Any]) -> None:
    """The longest configured domain that matches the host."""
    assert cookies.cookie_domain(case["host"], case["domains"]) == case["domain"]


@cases("hstc")
def test_hstc(case: dict[str, Any]) -> None:
    """Exactly six parts, or it is no hint."""
    assert (cookies.hstc(case["cookie"]) is not None) == case["valid"]


@cases("hssc")
def test_hssc(case: dict[str, Any]) -> None:
    """Exactly three parts, or it is no hint."""
    assert (cookies.hssc(case["cookie"]) is not None) == case["valid"]


@cases("consent")
def test_consent(case: dict[str, Any]) -> None:
    """The portal's mode decides what silence means; an explicit answer outranks the browser's signal."""
    assert list(consent(Mode(case["mode"]), case["claim"], objects=case["objects"])) == case["is"]


@cases("cleaned")
def test_cleaned(case: dict[str, Any]) -> None:
    """Addresses lose what may be personal or secret, and nothing else."""
    assert urls.cleaned(case["url"]) == case["is"]


@given(st.text(alphabet="https:/?#&=@%.abc240_Token\\ ", max_size=60))
def test_cleaning_is_idempotent_and_lets_no_address_through(text: str) -> None:
    cleaned = urls.cleaned("https://x.example/" + text)
    assert urls.cleaned(cleaned) == cleaned
    assert "#" not in cleaned
    query = cleaned.partition("?")[2]
    assert not any(urls.looks_like_email(part) for part in query.split("&"))


@pytest.mark.parametrize(
    ("given", "reduced"),
    [
        ("https://www.site.example/a/b?utm_source=x&c=d", "https://www.site.example/a/b?utm_source=x"),
        ("https://www.site.example/leave/ann@x.io/now", "https://www.site.example/leave/-/now"),
        ("https://www.site.example/?utm_term=ann%40x.io", "https://www.site.example/"),
    ],
)
def test_reduced(given: str, reduced: str) -> None:
    """After a no: the path and utm_*."""
    assert urls.reduced(given) == reduced


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "https://site.example.evil.example/",
        "https://evil.example\\@www.site.example/",
        "https://evilsite.example/",
        "https://www.site.example@evil.example/",
        "//www.site.example/",
        "javascript://www.site.example/%0aalert(1)",
        "https://evil.example/?https://www.site.example/",
        "https://evil.example#@www.site.example/",
        "https://www.site.example:notaport/",
        "",
        None,
        7,
    ],
)
def test_foreign_pages(url: object) -> None:
    """A page elsewhere publishes nothing under the portal's name."""
    assert event_of(view(url=url), SITE, PERSON) is Dropped.FOREIGN_URL


@pytest.mark.parametrize(
    ("occurred", "sent", "received", "expected"),
    [
        (START, START, START, (START, None)),
        (START - 5_000, START, START + 100, (START - 4_900, None)),
        (START + 400 * DAY, START + 400 * DAY + 50, START, (START - 50, None)),
        (START + 2 * DAY, None, START, (START, "out_of_range")),
        (START - 31 * DAY, None, START, (START - 31 * DAY, None)),
        (START - 31 * DAY - 1, None, START, (START, "out_of_range")),
        (None, START, START, (START, "missing")),
        ("yesterday", START, START, (START, "out_of_range")),
    ],
)
def test_clock(occurred: object, sent: object, received: Millis, expected: object) -> None:
    """The browser's clock is corrected by what it says at the time of sending, and not believed beyond that."""
    assert clock.corrected(occurred, sent, received) == expected


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("2001:db8:1:2:3::4", "2001:db8:1::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("no address", None),
        (None, None),
    ],
)
def test_shortened(given: str | None, kept: str | None) -> None:
    """The last octet goes; of IPv6, all but 48 bits."""
    assert addresses.kept(given, addresses.IpPolicy.SHORTENED) == kept


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], "10.0.0.1"),
        (["198.51.100.1"], "198.51.100.1"),
        (["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
        (["1.1.1.1", "10.0.0.2"], "1.1.1.1"),
        (["rubbish"], "10.0.0.1"),
    ],
)
def test_client_behind_proxies(forwarded: list[str], client: str) -> None:
    """The last hop that is not a proxy of ours is who asked; what that one says about others is not believed."""
    trusted = [ip_network("10.0.0.0/8")]
    assert addresses.client("10.0.0.1", forwarded, trusted) == client


def test_nobody_is_believed_without_trusted_proxies() -> None:
    assert addresses.client("192.0.2.1", ["1.1.1.1"], []) == "192.0.2.1"


def test_tokens_open_with_any_key() -> None:
    """Rotation: the first key seals, all open; a key that is gone opens nothing."""
    token = sealing.sealed(KEYS[1:], b"link", SITE.id, b"content", NONCE)
    assert sealing.opened(KEYS, b"link", SITE.id, token) == b"content"
    assert sealing.opened(KEYS[:1], b"link", SITE.id, token) is None


def test_tokens_are_bound() -> None:
    """A token of another purpose or portal is none."""
    token = sealing.sealed(KEYS, b"link", SITE.id, b"content", NONCE)
    assert sealing.opened(KEYS, b"click", SITE.id, token) is None
    assert sealing.opened(KEYS, b"link", PortalId(8), token) is None


def test_every_bit_of_a_token_counts() -> None:
    token = sealing.sealed(KEYS, b"link", SITE.id, b"content", NONCE)
    raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for bit in range(len(raw) * 8):
        forged = bytearray(raw)
        forged[bit // 8] ^= 1 << bit % 8
        assert sealing.opened(KEYS, b"link", SITE.id, urlsafe_b64encode(forged).rstrip(b"=").decode()) is None


@given(st.text(max_size=120))
def test_other_texts_are_no_tokens(text: str) -> None:
    assert sealing.opened(KEYS, b"link", SITE.id, text) is None


LINK = links.Link("ann@x.io", "may", "https://www.site.example/offer?a=1#b", START, Millis(START + DAY))


def test_links_come_back() -> None:
    token = links.sealed_link(KEYS, SITE.id, LINK, NONCE)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert links.opened_link(KEYS, SITE.id, token) == LINK


def test_landing_keeps_the_rest_of_the_address() -> None:
    assert links.landing(LINK.url, "T") == "https://www.site.example/offer?a=1&_hsc=T#b"
    assert links.landing("https://www.site.example/?_hsc=old", "T") == "https://www.site.example/?_hsc=T"


@pytest.mark.parametrize(("after", "by_bot", "bot"), [(1_999, False, True), (2_000, False, False), (9_000, True, True)])
def test_hasty_clicks_are_scanners(after: int, by_bot: bool, bot: bool) -> None:
    click = links.followed(LINK, event_id(1), Millis(START + after), by_bot=by_bot)
    assert click.bot is bot


def test_a_click_comes_back_as_itself() -> None:
    """The second publication differs from the first in the utk alone; five minutes later it is none."""
    click = links.followed(LINK, event_id(1), Millis(START + MINUTE), by_bot=False)
    token = links.sealed_click(KEYS, SITE.id, click, NONCE)
    hit = {"type": "email_click", "click": token, "utk": utk("u")}
    returned = made(hit, request=PERSON._replace(received_at=Millis(START + 2 * MINUTE)))
    first = hits.as_event(links.click_fields(click), SITE, PERSON)
    assert isinstance(first, EmailClick)
    assert isinstance(returned, EmailClick)
    assert (first.utk, returned.utk) == (None, utk("u"))
    assert returned.occurred_at == first.occurred_at == START + MINUTE
    assert (returned.event_id, returned.recipient_email, returned.send_id, returned.url, returned.bot) == (
        *(first.event_id, first.recipient_email, first.send_id, first.url, first.bot),
    )
    assert event_of(hit, SITE, PERSON._replace(received_at=Millis(START + 6 * MINUTE))) is Dropped.INVALID_CLICK
    assert event_of(hit | {"utk": None}, SITE, PERSON) is Dropped.INVALID_CLICK
    assert event_of(hit, ASKING, PERSON) is Dropped.NO_CONSENT


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


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
hit_like = st.dictionaries(
    st.sampled_from(
        ["event_id", "occurred_at", "url", "utk", "consent", "email", "page_url", "form_id", "fields", "name", "click", "properties"]
    ),
    json_values | st.sampled_from([utk("u"), "https://www.site.example/", event_id(1), YES, START]),
)


@given(json_values | st.builds(lambda kind, hit: {"type": kind} | hit, st.sampled_from(sorted(hits._MADE)), hit_like))
def test_no_hit_breaks_the_collector(hit: Any) -> None:
    """Whatever a browser sends becomes an event or a reason."""
    assert isinstance(event_of(hit, SITE, PERSON), Event | str)


def submitted(given: object, portal: Portal = SITE, request: Request = PERSON) -> Any:
    submission = forms.of_json(given)
    assert isinstance(submission, forms.Submission)
    return forms.event_of(submission, portal, "contact", request, event_id(9))


def test_a_form_posted_as_json() -> None:
    event = submitted(
        {
            "submittedAt": START - 1,
            "fields": [
                {"name": "email", "value": " Ann@X.io"},
                {"name": "size", "value": 4},
                {"name": "c", "value": "1"},
                {"name": "c", "value": "2"},
            ],
            "context": {"hutk": utk("u"), "pageUri": "https://www.site.example/a?token=1"},
            "createNewContactForNewEmail": True,
        }
    )
    assert isinstance(event, FormSubmission)
    assert (event.email, event.utk, event.occurred_at, event.create_new_contact) == ("ann@x.io", utk("u"), START - 1, True)
    assert event.fields == (("email", " Ann@X.io"), ("size", "4"), ("c", "1;2"))
    assert event.page_url == "https://www.site.example/a"


EMAIL = {"name": "email", "value": "ann@x.io"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"fields": [{"name": "email", "value": "ann"}]}, ErrorType.INVALID_EMAIL),
        ({"fields": [EMAIL], "context": {"hutk": "u"}}, ErrorType.INVALID_HUTK),
        ({"fields": [EMAIL], "context": {"pageUri": "https://evil.example/"}}, ErrorType.INVALID_PAGE_URI),
        ({"fields": [EMAIL], "context": {"ipAddress": "300.1.1.1"}}, ErrorType.INVALID_IP_ADDRESS),
        ({"fields": [EMAIL], "context": {"ipAddress": []}}, ErrorType.INVALID_IP_ADDRESS),
        ({"fields": [{"name": "other", "value": "1"}]}, ErrorType.REQUIRED_FIELD),
        ({"fields": [EMAIL] * 1001}, ErrorType.MAX_VALUES),
        ({"fields": [EMAIL, {"name": "t", "value": "x" * 65_537}]}, ErrorType.TOO_LARGE),
        ({"fields": [EMAIL]}, ErrorType.MISSING_PROCESSING_CONSENT),
        ({"fields": "email"}, ErrorType.INVALID_SUBMISSION),
        ({"fields": [EMAIL], "submittedAt": START - 32 * DAY}, ErrorType.INVALID_SUBMISSION),
        ({"fields": [EMAIL], "submittedAt": "soon"}, ErrorType.INVALID_SUBMISSION),
        ({"fields": [{"name": "e", "value": []}]}, ErrorType.INVALID_SUBMISSION),
    ],
)
def test_wrong_forms(body: dict[str, Any], expected: ErrorType) -> None:
    """Everything wrong with a form is named by the source's types, without the values."""
    portal = Portal(PortalId(7), ("site.example",), mode=Mode.OFF, forms={"contact": Form(required=("email",), processing_consent=True)})
    legal = {} if expected is ErrorType.MISSING_PROCESSING_CONSENT else {"legalConsentOptions": {"consent": {"consentToProcess": True}}}
    errors = submitted(body | legal, portal)
    assert expected in [error.type for error in errors]
    assert "300.1.1.1" not in str(errors)
    assert "evil" not in str(errors)


def test_a_forms_address_is_the_servers_to_say() -> None:
    """`context.ipAddress` is believed only with the portal's server key."""
    body = {"fields": [EMAIL], "context": {"ipAddress": "198.51.100.9"}}
    assert submitted(body).ip == "203.0.113.0"
    submission = forms.of_json(body)
    assert isinstance(submission, forms.Submission)
    event = forms.event_of(submission._replace(is_from_server=True), SITE, "contact", PERSON, event_id(9))
    assert isinstance(event, FormSubmission)
    assert (event.ip, event.user_agent) == ("198.51.100.0", None)


def test_a_form_of_html() -> None:
    """The script's own inputs are no fields; without its consent an opt-in portal takes no cookie."""
    inputs = [("email", "ann@x.io"), ("_hsutk", utk("u")), ("_hsevent", event_id(5)), ("_hspage", "https://www.site.example/")]
    event = forms.event_of(forms.of_html(inputs, None), ASKING, "contact", PERSON, event_id(9))
    assert isinstance(event, FormSubmission)
    assert (event.event_id, event.utk, event.fields) == (event_id(5), None, (("email", "ann@x.io"),))
    consented = forms.event_of(forms.of_html([*inputs, ("_hsconsent", "1")], None), ASKING, "contact", PERSON, event_id(9))
    assert isinstance(consented, FormSubmission)
    assert consented.utk == utk("u")


def test_one_key_one_event() -> None:
    assert forms.keyed(SITE, "contact", "k") == forms.keyed(SITE, "contact", "k") != forms.keyed(SITE, "other", "k")


@given(
    json_values
    | st.fixed_dictionaries(
        {"fields": json_values | st.lists(st.fixed_dictionaries({"name": json_values, "value": json_values}))},
        optional={"context": json_values, "submittedAt": json_values, "legalConsentOptions": json_values},
    )
)
def test_no_form_breaks_the_collector(body: Any) -> None:
    submission = forms.of_json(body)
    if isinstance(submission, forms.Submission):
        assert isinstance(forms.event_of(submission, SITE, "contact", PERSON, event_id(9)), FormSubmission | list)


def test_renewed_cookie() -> None:
    """The collector's own cookie has the full life and the domain of the portal."""
    assert cookies.renewed(Utk("0" * 32), "t.site.example", ("site.example",), secure=True) == (
        f"hubspotutk={'0' * 32}; Domain=site.example; Path=/; Max-Age=15552000; SameSite=Lax; Secure"
    )


def test_a_visitor_goes_over_to_another_domain() -> None:
    """The token holds for a minute, for this portal, and with consent on both sides."""
    asked = {"type": "carry", "utk": utk("u"), "consent": YES}
    token = visitors.sealed_visitor(asked, ASKING, PERSON, NONCE)
    handed = {"type": "adopt", "token": token, "consent": YES}
    assert visitors.opened_visitor(handed, ASKING, PERSON) == utk("u")
    assert visitors.opened_visitor(handed | {"consent": None}, ASKING, PERSON) is None
    assert visitors.opened_visitor(handed, ASKING, PERSON._replace(received_at=Millis(START + MINUTE))) is None
    assert visitors.opened_visitor(handed, Portal(PortalId(9), ("site.example",), keys=KEYS[:1]), PERSON) is None
    assert visitors.opened_visitor(handed | {"token": links.sealed_link(KEYS, SITE.id, LINK, NONCE)}, ASKING, PERSON) is None
    assert visitors.sealed_visitor(asked | {"consent": None}, ASKING, PERSON, NONCE) is None
    assert visitors.sealed_visitor(asked | {"utk": "x"}, ASKING, PERSON, NONCE) is None
