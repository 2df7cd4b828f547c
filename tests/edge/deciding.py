"""Portals and visitors for whom the tests of the decisions decide."""

from typing import Any

from hypothesis import strategies as st

from pipeline.core.events import Event, PortalId
from pipeline.edge.core.consent import Mode
from pipeline.edge.core.hits import Request, event_of
from pipeline.edge.core.portal import Portal
from tests.builders import START, event_id, utk

KEYS = (bytes(range(32)), bytes(range(1, 33)))
SITE = Portal(PortalId(7), ("site.example",), mode=Mode.OFF, keys=KEYS[:1], server_key=b"of the site's server")
ASKING = Portal(PortalId(7), ("site.example",), mode=Mode.OPT_IN, keys=KEYS[:1])
PERSON = Request(START, ip="203.0.113.77", user_agent="Canary/1.0 (iPhone; Mobile)")
YES = {"analytics": True, "advertisement": True, "functionality": True}
CANARIES = (utk("canary"), "canary@x.io", "203.0.113.77", "Canary/1.0")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
hit_like = st.dictionaries(
    st.sampled_from(
        ["event_id", "occurred_at", "url", "utk", "consent", "email", "page_url", "form_id", "fields", "name", "click", "properties"]
    ),
    json_values | st.sampled_from([utk("u"), "https://www.site.example/", event_id(1), YES, START]),
)
"""Hits as somebody might make them up who knows the names."""


def view(**fields: Any) -> dict[str, Any]:
    """A page view as the script sends it."""
    return {"type": "page_view", "event_id": event_id(1), "occurred_at": START, "url": "https://www.site.example/a"} | fields


def made(hit: dict[str, Any], portal: Portal = SITE, request: Request = PERSON) -> Any:
    """The event of a hit that becomes one."""
    event = event_of(hit, portal, request)
    assert isinstance(event, Event), event
    return event
