"""The inbox: a mail from each site to whoever asks, with the links that the product makes for mailers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from infra.demo_site.places import WAYS, Places
from pipeline.core import normalise
from pipeline.core.events import PortalId
from pipeline.core.ids import uuid5
from pipeline.edge.core.portal import Portal
from pipeline.edge.linking import tracked_link

CUSTOMER = "bob@mail.example"
"""A contact of every site from the start, imported from a list of customers, who has not been seen in any browser yet."""
_SEND = "spring"


class Mail(NamedTuple):
    """What the inbox shows of one."""

    sender: str
    mode: str
    site_link: str
    shop_link: str


class Mails:
    """The mails of the sites, each with the same links for ever: a mail is written once."""

    def __init__(self, places: Places, portals: Mapping[PortalId, Portal]) -> None:
        self._places = places
        self._portals = portals
        self._written: dict[str, Sequence[Mail]] = {}
        self.of(CUSTOMER)

    def of(self, asked: str) -> tuple[str, Sequence[Mail]]:
        """Whose inbox it is, and the mails in it; what is no address leads to the customer's."""
        recipient = normalise.email(asked) or CUSTOMER
        if recipient not in self._written:
            self._written[recipient] = tuple(self._write(recipient))
        return recipient, self._written[recipient]

    def _write(self, recipient: str) -> Iterator[Mail]:
        for way in WAYS:
            portal = self._portals[PortalId(way.portal)]
            pages = (self._places.at(way.site, "/blends"), self._places.at(way.shop))
            site, shop = (tracked_link(portal, recipient, _SEND, page) for page in pages)
            yield Mail(way.site, way.mode.value, site, shop)


def imports(now_ms: int) -> Iterator[dict[str, Any]]:
    """The customer, as an event of each portal."""
    for way in WAYS:
        yield {
            "type": "contact_import",
            "event_id": uuid5(f"demo-site|{way.portal}|{CUSTOMER}"),
            "portal_id": way.portal,
            "occurred_at": now_ms,
            "email": CUSTOMER,
        }
