"""Tracked links in mails, and clicks on them on their way back (spec: edge.md, "Email links").

A link token holds what the mailer knew. Following it makes a click, which goes to the log without a cookie and, sealed, to
the landing page; the page's script hands it back, and the same event goes to the log with the cookie.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

import msgspec

from pipeline.core.events import EventId, Millis, PortalId, Utk
from pipeline.edge.core import sealing, urls

CLICK_LIFE = 5 * 60_000
SCANNER_HASTE = 2_000
"""A click so soon after the sending is a mail scanner's. Milliseconds."""
LINK_LIFE = 400 * 86_400_000
"""Unless the mailer says otherwise. Milliseconds."""
MAX_URL_BYTES = 2_000
"""Of the target: the sealed click repeats it in an address."""
PARAMETER = "_hsc"


class Link(msgspec.Struct, frozen=True, array_like=True):
    """What a mailer put into a link."""

    recipient: str
    send_id: str
    url: str
    sent_at: Millis
    expires_at: Millis


class Click(msgspec.Struct, frozen=True, array_like=True):
    """One following of a link, until the landing page hands it back."""

    event_id: EventId
    occurred_at: Millis
    recipient: str
    send_id: str
    url: str
    bot: bool
    expires_at: Millis


def sealed_link(keys: Sequence[bytes], portal: PortalId, link: Link, nonce: bytes) -> str:
    return sealing.sealed(keys, sealing.LINK, portal, msgspec.msgpack.encode(link), nonce)


def opened_link(keys: Sequence[bytes], portal: PortalId, token: str) -> Link | None:
    """The link of an authentic token, expired ones included."""
    content = sealing.opened(keys, sealing.LINK, portal, token)
    return None if content is None else msgspec.msgpack.decode(content, type=Link)


def followed(link: Link, event_id: EventId, now: Millis, *, by_bot: bool) -> Click:
    """The click that is made by following a link now."""
    bot = by_bot or now - link.sent_at < SCANNER_HASTE
    return Click(event_id, now, link.recipient, link.send_id, urls.cleaned(link.url), bot, Millis(now + CLICK_LIFE))


def landing(url: str, token: str) -> str:
    """The target with a sealed click in its query, in place of any that is there."""
    parts = urlsplit(url)
    kept = [part for part in parts.query.split("&") if part and part.partition("=")[0] != PARAMETER]
    return urlunsplit(parts._replace(query="&".join([*kept, f"{PARAMETER}={token}"])))


def sealed_click(keys: Sequence[bytes], portal: PortalId, click: Click, nonce: bytes) -> str:
    return sealing.sealed(keys, sealing.CLICK, portal, msgspec.msgpack.encode(click), nonce)


def opened_click(keys: Sequence[bytes], portal: PortalId, token: str, now: Millis) -> Click | None:
    """The click of an authentic token that has not expired."""
    content = sealing.opened(keys, sealing.CLICK, portal, token)
    click = None if content is None else msgspec.msgpack.decode(content, type=Click)
    return click if click is not None and now < click.expires_at else None


def click_fields(click: Click, utk: Utk | None = None) -> dict[str, object]:
    """The click as an event's fields; those of its two publications differ in the utk alone."""
    return {
        "type": "email_click",
        "event_id": click.event_id,
        "occurred_at": click.occurred_at,
        "recipient_email": click.recipient,
        "send_id": click.send_id,
        "url": click.url,
        "bot": click.bot,
        "utk": utk,
    }
