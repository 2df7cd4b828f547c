"""A handful of visitors who play every example of the identity rules (spec: identity.md, "Examples"), each in a portal of its own.

The examples count time in 1, 2, 3; here that is minutes after noon of the day of the log. Portal 11 plays example 1, and so on.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.core.ids import uuid5

NOON = 807_278_400_000
"""1995-08-01T12:00:00Z."""
MINUTE = 60_000
SITE = "https://shop.example"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """One example: what it shows, and its events in the order of their times."""

    portal: int
    title: str
    events: tuple[Json, ...]


class _Scene:
    """Writes the events of one portal; `at` is the minute."""

    def __init__(self, portal: int) -> None:
        self.portal = portal

    def cookie(self, name: str) -> str:
        return hashlib.md5(f"{self.portal}|{name}".encode(), usedforsecurity=False).hexdigest()

    def view(self, at: float, browser: str, page: str) -> Json:
        return self._event("page_view", at, browser, url=f"{SITE}/{page}", title=page.replace("-", " ").capitalize())

    def form(self, at: float, browser: str, email: str, **fields: Any) -> Json:
        return self._event("form_submission", at, browser, form_id="newsletter", email=email, page_url=f"{SITE}/contact", **fields)

    def click(self, at: float, browser: str, recipient: str, **fields: Any) -> Json:
        return self._event("email_click", at, browser, recipient_email=recipient, send_id="summer-sale", url=f"{SITE}/sale", **fields)

    def contact(self, at: float, email: str) -> Json:
        return self._event("contact_import", at, None, email=email)

    def _event(self, kind: str, at: float, browser: str | None, **fields: Any) -> Json:
        cookie = {} if browser is None else {"utk": self.cookie(browser)}
        return {
            "type": kind,
            "event_id": uuid5(f"demo|{self.portal}|{kind}|{at}|{browser}|{fields.get('email')}"),
            "portal_id": self.portal,
            "occurred_at": int(NOON + at * MINUTE),
            **cookie,
            **fields,
        }


def examples() -> Iterator[Example]:
    """Examples 1 to 6; the third in its two variants."""
    one = _Scene(11)
    yield Example(
        11,
        "anonymous views before a form become the contact's",
        (
            one.view(1, "laptop", "home"),
            one.view(2, "laptop", "prices"),
            one.form(3, "laptop", "a@x.io"),
            one.view(4, "laptop", "thank-you"),
        ),
    )
    two = _Scene(12)
    yield Example(12, "one contact, two browsers", (two.form(1, "laptop", "a@x.io"), two.form(2, "phone", "a@x.io")))
    three = _Scene(13)
    yield Example(
        13,
        "a form with a new address renames the contact",
        (three.form(1, "laptop", "a@x.io"), three.view(2, "laptop", "prices"), three.form(3, "laptop", "b@x.io")),
    )
    kiosk = _Scene(23)
    yield Example(
        23,
        "a form that always creates a contact (a kiosk) makes two",
        (kiosk.form(1, "kiosk", "a@x.io"), kiosk.view(2, "kiosk", "prices"), kiosk.form(3, "kiosk", "b@x.io", create_new_contact=True)),
    )
    four = _Scene(14)
    yield Example(
        14,
        "a forwarded mail is a guess, until the reader says who they are",
        (
            four.contact(0, "a@x.io"),
            four.click(1, "laptop", "a@x.io"),
            four.click(2, "phone", "a@x.io"),
            four.view(3, "phone", "prices"),
            four.form(4, "phone", "c@x.io"),
        ),
    )
    five = _Scene(15)
    yield Example(
        15,
        "a shared browser changes hands",
        (
            five.contact(0, "a@x.io"),
            five.contact(0, "b@x.io"),
            five.form(10, "library", "a@x.io"),
            five.view(15, "library", "prices"),
            five.form(20, "library", "b@x.io"),
            five.view(25, "library", "prices"),
        ),
    )
    six = _Scene(16)
    yield Example(
        16,
        "a mail scanner's click binds nothing",
        (
            six.contact(0, "a@x.io"),
            six.click(0.5, "scanner", "a@x.io", bot=True),
            six.click(1, "laptop", "a@x.io"),
            six.click(2, "phone", "a@x.io"),
            six.view(3, "phone", "prices"),
            six.form(4, "phone", "c@x.io"),
        ),
    )


def signs_up(views: list[Json], email: str) -> Json:
    """The form that the visitor with these page views sends five minutes after the last of them."""
    last = max(views, key=lambda view: (view["occurred_at"], view["event_id"]))
    return {
        "type": "form_submission",
        "event_id": uuid5(f"demo|{last['event_id']}|{email}"),
        "portal_id": last["portal_id"],
        "occurred_at": last["occurred_at"] + 5 * MINUTE,
        "utk": last["utk"],
        "form_id": "launch-alerts",
        "email": email,
        "page_url": last["url"],
        "fields": {"interest": "shuttle launches"},
    }
