"""What is new on the timelines, line by line, as somebody at a terminal wants to read it."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from infra.demo_site.places import WAYS
from pipeline.core.timeline import COOKIE_UNKNOWN
from pipeline.timelines import PENDING, RULES, Entry, what, where

_SITES = {way.portal: way.site for way in WAYS}


class _Whose(NamedTuple):
    """The owner of a line, as far as it is known."""

    contact: str | None
    possible: str | None
    utk: str | None


class Growth:
    """Remembers which lines were shown, and as whose: a line is shown again when it became somebody else's."""

    def __init__(self) -> None:
        self._shown: dict[tuple[int, str], _Whose] = {}
        self._heading = ""

    def lines(self, entries: Iterable[Entry]) -> Iterator[str]:
        """The new ones among all entries there are, in the order of owner and time; a heading wherever the owner changes."""
        entries = list(entries)
        addresses = {entry.contact_id: entry.email for entry in entries if entry.contact_id and entry.email}
        new = [entry for entry in entries if _is_settled(entry) and self._shown.get(_key(entry)) != _whose(entry)]
        new.sort(key=lambda entry: (entry.portal_id, str(_whose(entry)), entry.occurred_at))
        for entry in new:
            self._shown[_key(entry)] = _whose(entry)
            heading = f"{_in_words(_whose(entry), addresses)}, {_SITES[entry.portal_id]}"
            if heading != self._heading:
                self._heading = heading
                yield f"\n{heading}"
            yield _line(entry)


def _key(entry: Entry) -> tuple[int, str]:
    return entry.portal_id, entry.event_id


def _whose(entry: Entry) -> _Whose:
    return _Whose(entry.contact_id, entry.temporary_contact_id, None if entry.contact_id else entry.utk)


def _is_settled(entry: Entry) -> bool:
    """Whether nothing is to follow for it: evidence has its rule, activity of a cookie its session."""
    return entry.rule != PENDING and (entry.utk is None or entry.session_number is not None or entry.bot is True)


def _in_words(whose: _Whose, addresses: Mapping[str, str]) -> str:
    if whose.contact is not None:
        return addresses.get(whose.contact, f"contact {whose.contact}")
    cookie = f"cookie {whose.utk[:8]}" if whose.utk else "no cookie: only the page is known"
    if whose.possible is not None:
        return f"possibly {addresses.get(whose.possible, whose.possible)} ({cookie})"
    return f"nobody yet ({cookie})"


def _line(entry: Entry) -> str:
    time = datetime.fromtimestamp(entry.occurred_at / 1000, UTC).strftime("%H:%M:%S")
    session = f"session {entry.session_number}" if entry.session_number else ""
    page = urlsplit(where(entry))
    place = f"{page.hostname}{page.path}" if page.hostname else ""
    reason = "" if entry.utk is None and entry.rule == COOKIE_UNKNOWN else RULES.get(entry.rule, entry.rule)
    return f"  {time}  {session:<9}  {what(entry):<50}  {place:<32}  {reason}".rstrip()
