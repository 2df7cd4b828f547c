"""Sessions of many cookies at once: `core.sessions.fold` in columns, some fifty times as fast.

The core is the definition, and a property test holds this equal to it.
"""

from typing import NamedTuple

import numpy as np

from pipeline.core.policy import SessionPolicy
from pipeline.history.shapes import NEVER, SESSION, Flags, Ints, Rows, Sessions
from pipeline.history.words import Words


class Folded(NamedTuple):
    """The sessions of some cookies, and the cookie of each, in the order of cookies and time."""

    sessions: Sessions
    cookies: Ints

    def last(self, before: Sessions) -> Sessions:
        """The fold's state after everything, of each cookie: its last session, or that of `before`."""
        after = before.copy()
        after[self.cookies] = self.sessions  # in order: the last one stays
        return after

    def with_bases(self, before: Sessions) -> "Folded":
        """Also the sessions of `before` that nothing has continued: the first in each cookie's list, as in the core."""
        kept = before["number"] > 0
        firsts = self._firsts()
        kept[self.cookies[firsts][self.sessions["number"][firsts] == before["number"][self.cookies[firsts]]]] = False
        bases = np.flatnonzero(kept)
        return Folded(np.concatenate([before[bases], self.sessions]), np.concatenate([bases, self.cookies]))

    def _firsts(self) -> Ints:
        """Where the first session of each cookie is."""
        return np.flatnonzero(np.diff(self.cookies, prepend=-1))


def fold(rows: Rows, cookies: Ints, before: Sessions, policy: SessionPolicy, words: Words) -> Folded:
    """The sessions of activity in the order (cookie, at, id); `cookies` are positions in `before`, the fold's states before it.

    A session of `before` is in the result if it is continued.
    """
    count = len(rows)
    if not count:
        return Folded(np.zeros(0, SESSION), np.zeros(0, np.int64))
    at, url = rows["at"], rows["url"].astype(np.int64)
    is_first = np.diff(cookies, prepend=-1) != 0
    base = before[cookies]
    previous_at = np.where(is_first, base["ended_at"], np.concatenate([at[:1], at[:-1]]))
    has_previous = ~is_first | (base["number"] > 0)
    starts = ~has_previous | (at - np.where(has_previous, previous_at, at) > policy.gap) | rows["starts"]
    sources = words.sources(url, rows["referrer"].astype(np.int64))
    sources[url == 0] = 0
    if policy.split_on_source_change:
        starts |= _other_source(sources, starts, is_first, base["source"])

    heads = np.flatnonzero(starts | is_first)
    tails = np.append(heads[1:], count) - 1
    places = np.arange(count)
    is_view = url > 0
    first_view = np.minimum.reduceat(np.where(is_view, places, count), heads)
    last_view = np.maximum.reduceat(np.where(is_view, places, -1), heads)
    first_known = np.minimum.reduceat(np.where(sources > 0, places, count), heads)
    has_view, has_source = last_view >= 0, first_known < count

    found = np.zeros(len(heads), SESSION)
    found["started_at"], found["first_event_id"] = at[heads], rows["id"][heads]
    found["ended_at"], found["last_event_id"] = at[tails], rows["id"][tails]
    found["activity_count"] = tails - heads + 1
    found["page_view_count"] = np.add.reduceat(is_view.astype(np.int64), heads)
    found["entry_url"] = np.where(has_view, url[np.minimum(first_view, count - 1)], 0)
    found["exit_url"] = np.where(has_view, url[last_view], 0)
    found["source"] = np.where(has_source, sources[np.minimum(first_known, count - 1)], 0)
    _count(found, is_first[heads], starts[heads], base[heads])
    return Folded(found, cookies[heads])


def _count(found: Sessions, is_first: Flags, is_new: Flags, base: Sessions) -> None:
    """Numbers the sessions, and joins those that continue a base with it."""
    places = np.arange(len(found))
    first = np.maximum.accumulate(np.where(is_first, places, 0))
    found["number"] = base["number"] + places - first + is_new[first]
    found["previous_started_at"][1:] = found["started_at"][:-1]
    found["previous_started_at"][is_first] = np.where(base["number"] > 0, base["started_at"], NEVER)[is_first]
    going_on = np.flatnonzero(is_first & ~is_new)
    if not len(going_on):
        return
    old, new = base[going_on], found[going_on]
    for name in ("number", "started_at", "first_event_id", "previous_started_at"):
        new[name] = old[name]
    for name in ("activity_count", "page_view_count"):
        new[name] += old[name]
    for name in ("entry_url", "source"):
        new[name] = np.where(old[name] > 0, old[name], new[name])
    new["exit_url"] = np.where(new["exit_url"] > 0, new["exit_url"], old["exit_url"])
    found[going_on] = new
    after = going_on + 1
    after = after[after < len(found)]
    after = after[~is_first[after]]
    found["previous_started_at"][after] = found["started_at"][after - 1]


def _other_source(sources: Ints, starts: Flags, is_first: Flags, base: Ints) -> Flags:
    """Where a known source differs from that of its session, which is the last known one since the session started."""
    places = np.arange(len(sources))
    stretch = np.maximum.accumulate(np.where(starts | is_first, places, 0))
    known = np.maximum.accumulate(np.where(sources > 0, places, -1))
    before = np.append(-1, known[:-1])
    in_stretch = before >= stretch
    session = np.where(in_stretch, sources[before], np.where(starts[stretch], 0, base[stretch]))
    session[starts] = 0
    differs: Flags = (sources > 0) & (session > 0) & (sources != session)
    return differs
