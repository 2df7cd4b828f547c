"""Tracked links for mailers: `python -m pipeline link`, and the function `tracked_link` for programs (spec: edge.md, "Email links")."""

import secrets
import time

from pipeline.core import normalise
from pipeline.core.events import Millis
from pipeline.edge.core import sealing
from pipeline.edge.core.links import LINK_LIFE, MAX_URL_BYTES, Link, sealed_link
from pipeline.edge.core.portal import Portal
from pipeline.errors import UsageError


def tracked_link(portal: Portal, recipient: str, send_id: str, url: str, *, host: str | None = None, life_ms: int = LINK_LIFE) -> str:
    """The address to put into a mail to `recipient`. `host` is a collector's origin; the portal's first one otherwise.

    UsageError names the part that cannot be used.
    """
    if not portal.keys:
        raise UsageError(f"portal {portal.id} has no keys in the portals file: tracked links need one")
    collector = host or next(iter(portal.hosts), None)
    if collector is None:
        raise UsageError(f"portal {portal.id} has no hosts in the portals file: name a collector's origin, https://t.example.com")
    if (email := normalise.email(recipient)) is None:
        raise UsageError(f"recipient {recipient!r}: expected an email address")
    if normalise.url(url) is None or len(url.encode()) > MAX_URL_BYTES:
        raise UsageError(f"url {url!r}: expected an http or https address of at most {MAX_URL_BYTES} bytes")
    if not send_id:
        raise UsageError("send: expected the name of the mailing")
    now = time.time_ns() // 1_000_000
    link = Link(email, send_id, url, Millis(now), Millis(now + life_ms))
    return f"{collector.rstrip('/')}/l/{sealed_link(portal.keys, portal.id, link, secrets.token_bytes(sealing.NONCE_BYTES))}"
