"""What a browser carries for us: sealed tokens, tracked links, cookies that come back."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.events import EmailClick, Millis, PortalId, Utk
from pipeline.edge.core import cookies, hits, links, sealing, visitors
from pipeline.edge.core.hits import Dropped, event_of
from pipeline.edge.core.portal import Portal
from tests.builders import DAY, MINUTE, START, event_id, utk
from tests.edge.deciding import ASKING, KEYS, PERSON, SITE, YES, made

NONCE = bytes(12)


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
