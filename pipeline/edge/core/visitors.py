"""One visitor on two domains of a portal: the utk goes along with a link, sealed (spec: edge.md, "Links between the portal's own domains").

The page that is left asks for the token, the page that is entered hands it in; each needs the visitor's consent to analytics.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from pipeline.core import normalise
from pipeline.core.events import Millis
from pipeline.edge.core import sealing
from pipeline.edge.core.hits import Request, allowed
from pipeline.edge.core.portal import Portal

LIFE = 60_000
"""Milliseconds."""
PURPOSE = b"visitor"


class Carried(msgspec.Struct, frozen=True, array_like=True):
    utk: str
    expires_at: Millis


def sealed_visitor(asked: Mapping[str, Any], portal: Portal, request: Request, nonce: bytes) -> str | None:
    """The token for a link; None without consent, a utk or keys."""
    utk = normalise.utk(asked.get("utk"))
    if utk is None or not portal.keys or not allowed(asked.get("consent"), portal, request).analytics:
        return None
    carried = Carried(utk, Millis(request.received_at + LIFE))
    return sealing.sealed(portal.keys, PURPOSE, portal.id, msgspec.msgpack.encode(carried), nonce)


def opened_visitor(asked: Mapping[str, Any], portal: Portal, request: Request) -> str | None:
    """The utk of a token that is ours and not over a minute old; None without consent."""
    token = asked.get("token")
    if not isinstance(token, str) or not allowed(asked.get("consent"), portal, request).analytics:
        return None
    content = sealing.opened(portal.keys, PURPOSE, portal.id, token)
    carried = None if content is None else msgspec.msgpack.decode(content, type=Carried)
    return carried.utk if carried is not None and request.received_at < carried.expires_at else None
