"""The history of the cookies of a partition: events in, the sessions that change out (spec: sessions.md).

The state is a set of events for each cookie, all cookies in one table (table.py). What a batch means is computed in columns, for all its
cookies at once:

| a cookie to which comes | its sessions are folded |
|---|---|
| activity after all that it has done, as nearly always | from its last session on, over the new events |
| anything else: something late, another copy, a retraction, something to forget | from its base on, over all of its events |

The base is the fold's state before the events that are remembered (`core.sessions.Retention`). What comes before it is late: it cannot
be placed any more. `Changed.items` is all that the next owner of the partition needs: blocks (blocks.py), of which small ones are
merged now and then, and those of which most is forgotten are written anew.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.core.events import EventId, Millis
from pipeline.core.policy import SessionPolicy
from pipeline.core.retractions import retracted_among
from pipeline.core.sessions import Kept, Retention, together
from pipeline.history.arrivals import Arrivals
from pipeline.history.folding import Folded, fold
from pipeline.history.log import Log
from pipeline.history.memory import Memory, Targets
from pipeline.history.shapes import ROW, SESSION, TEXTS, Flags, Ints, Rows, Sessions, grown, id_texts
from pipeline.history.table import NONE, Table

_SLACK = 1.25
"""So many times what need be is remembered, so that it is seldom time to forget."""
_COMPACTED_ROWS = 20_000
"""With so many rows that are no more, and not as many that are, all are written anew."""
_COOKIES_AT_ONCE = 5_000
"""Whoever says everything says it of so many cookies at a time, to bound its memory."""
_FAR = np.iinfo(np.int64).max


class Changed(NamedTuple):
    """What a batch changed: sessions that are new or different, each with its cookie; first events of sessions that are gone, likewise;
    items of the changelog (None: gone). `late` events could not be placed, or retract what may be forgotten.
    """

    sessions: Sessions
    cookies: Ints
    removed: list[tuple[int, bytes]]
    items: dict[bytes, bytes | None]
    late: int


class History:
    """The cookies of one partition, or some of them. Blocks are numbered from `block` on."""

    def __init__(self, policy: SessionPolicy, retention: Retention, block: int = 1) -> None:
        self._policy = policy
        self._retention = retention
        self._memory = Memory()
        self._table = Table()
        self._log = Log(block)
        self._last = np.zeros(0, SESSION)
        """Of each cookie: the fold's session after everything ..."""
        self._base = np.zeros(0, SESSION)
        """... and before the events that are remembered,"""
        self._oldest = np.zeros(0, np.int64)
        """the time of the oldest activity that is remembered,"""
        self._active = np.zeros(0, np.int64)
        """how much activity that is,"""
        self._is_undone = np.zeros(0, np.bool_)
        """and whether retractions are among what is remembered."""
        self._in_vain = 0
        """So many events left no row since the last compaction, and perhaps texts that nobody needs."""

    @property
    def next_block(self) -> int:
        return self._log.next_block

    def restore(self, items: Mapping[bytes, bytes]) -> None:
        """Becomes the history that these items are. ValueError, or msgspec's, if they are something else."""
        for number, block in self._log.read(items):
            rows, bases, of_bases = self._memory.take(block)
            self._room()
            self._base[of_bases] = bases
            self._log.has_bases(of_bases, number)
            self._table.remove(np.setdiff1d(self._table.find(rows), NONE))
            self._table.append(rows, number)
        self._table.remove(np.flatnonzero(self._table.is_there() & self._is_forgotten(self._table.rows)))
        self._table.compact()
        rows, everybody = self._table.rows, np.arange(len(self._memory))
        for place in np.flatnonzero((rows["copies"] > 0) & ~rows["is_active"]).tolist():
            self._is_undone[rows["cookie"][place]] |= any(True for _ in self._memory.retractions(rows[place : place + 1]))
        base = self._base[everybody]
        self._last[everybody] = self._folded(rows, everybody, base).last(base)
        self._count_anew(self._activity(rows), everybody)

    def add(self, arrivals: Arrivals, *, again: bool = False) -> Changed:
        """Adds events. What it returns is good until the next call.

        With `again` readers may know sessions of a history that was lost, and will be told `everything` at the end: of cookies of which
        something is forgotten, which that will not tell, all is among what changed.
        """
        if self._is_to_compact():
            self._table.compact()
            self._memory.compact(self._table.rows, (self._last, self._base))
            self._in_vain = 0
        arrived, targets = self._memory.rows(arrivals)
        self._room()
        late = self._is_forgotten_time(arrived)
        new, replaced = self._distinct(arrived[~late] if late.any() else arrived)
        self._in_vain += len(arrived) - len(new)
        count = int(late.sum()) + self._forgotten_targets(new, targets)
        if not len(new):
            return Changed(np.zeros(0, SESSION), np.zeros(0, np.int64), [], {}, count)
        return self._fold_in(new, replaced, again=again)._replace(late=count)

    def everything(self) -> Iterator[Changed]:
        """All sessions, some cookies at a time; gone is whatever could begin with an event that is remembered, and does not.

        For readers who may know sessions of a history that was lost.
        """
        for first in range(0, len(self._memory), _COOKIES_AT_ONCE):
            yield self._everything_of(np.arange(first, min(first + _COOKIES_AT_ONCE, len(self._memory))))

    def _everything_of(self, cookies: Ints) -> Changed:
        rows, base = self._table.rows[self._table.of(cookies)], self._base[cookies]
        folded = self._folded(rows, cookies, base).with_bases(base)
        return Changed(folded.sessions, cookies[folded.cookies], _begin_nothing(rows, folded, cookies), {}, 0)

    def frame(self, changed: Changed) -> pl.DataFrame:
        """The sessions that are new or different, as columns: `portal_id`, `utk`, and the fields of `core.sessions.Session`."""
        return self._memory.frame(changed.sessions, changed.cookies)

    def removed(self, changed: Changed) -> Iterator[tuple[str, EventId]]:
        """Cookies and first events of the sessions that are gone."""
        for cookie, id_ in changed.removed:
            yield self._memory.cookie(cookie), EventId(id_texts(np.frombuffer(id_, "S16"))[0])

    def _is_to_compact(self) -> bool:
        """Whether more is gone than there is. Not amid a batch: what `add` returns names texts by their numbers."""
        return self._table.gone + self._in_vain > max(_COMPACTED_ROWS, self._table.count - self._table.gone)

    def _room(self) -> None:
        """For all cookies that have a number."""
        count = len(self._memory)
        self._table.room(count)
        self._last, self._base, self._active = grown(self._last, count), grown(self._base, count), grown(self._active, count)
        self._oldest, self._is_undone = grown(self._oldest, count, _FAR), grown(self._is_undone, count, fill=False)

    # What is new

    def _is_forgotten_time(self, rows: Rows) -> Flags:
        """Of rows: whether they belong before what is remembered of their cookies."""
        base = self._base[rows["cookie"]]
        ended, last = base["ended_at"], base["last_event_id"]
        before: Flags = (rows["at"] < ended) | ((rows["at"] == ended) & (rows["id"] <= last))
        again = (rows["id"] == last) | (rows["id"] == base["first_event_id"])  # a copy that says another time
        forgotten: Flags = (base["number"] > 0) & (before | again)
        return forgotten

    def _distinct(self, new: Rows) -> tuple[Rows, Ints]:
        """The rows that say something new, one for each event, and the numbers of those that they are to replace."""
        none = np.zeros(0, np.int64)
        if not len(new):
            return new, none
        new = new[np.lexsort((new["at"], new["id"], new["cookie"]))]
        known = self._table.find(new)
        again = _is_same_event(new[1:], new[:-1])
        if not again.any() and (known == NONE).all():
            return new, none
        said = np.flatnonzero(known != NONE)
        there = self._table.rows[known[said]]
        is_old = np.zeros(len(new), np.bool_)
        is_old[said] = _says_the_same(new[said], there) & (new["at"][said] >= there["at"])
        is_old[1:] |= again & _says_the_same(new[1:], new[:-1])
        new, known = new[~is_old], known[~is_old]
        open_ = known != NONE
        again = _is_same_event(new[1:], new[:-1])
        open_[1:] |= again
        open_[:-1] |= again
        merged, replaced = self._merged(new[open_], known[open_])
        return np.concatenate([new[~open_], merged]), replaced

    def _merged(self, new: Rows, known: Ints) -> tuple[Rows, Ints]:
        """Of events with several copies, sorted: one row for each that is not as it was, and the numbers of the rows that were."""
        made: list[Kept] = []
        cookies: list[int] = []
        replaced: list[int] = []
        heads = np.setdiff1d(np.arange(len(new)), 1 + np.flatnonzero(_is_same_event(new[1:], new[:-1])))
        for head, count in zip(heads.tolist(), np.diff(heads, append=len(new)).tolist(), strict=True):
            copies = [self._memory.kept(new, place) for place in range(head, head + count)]
            before = None if known[head] == NONE else self._memory.kept(self._table.rows, int(known[head]))
            kept = together(copies if before is None else [before, *copies])
            if kept is not before:
                made.append(kept)
                cookies.append(int(new["cookie"][head]))
                if before is not None:
                    replaced.append(int(known[head]))
        rows = np.zeros(len(made), ROW)
        self._memory.put(rows, np.array(cookies, np.int64), made)
        return rows, np.array(replaced, np.int64)

    def _forgotten_targets(self, new: Rows, targets: Targets) -> int:
        """How many new retractions may retract what is forgotten. If anything was, nobody can tell."""
        forgotten = 0
        for place in np.flatnonzero(new["copies"] > 0).tolist() if targets else ():
            cookie = int(new["cookie"][place])
            target = targets.get((cookie, new["id"][place : place + 1].tobytes()))
            if target is not None:
                self._is_undone[cookie] = True
                if self._base["number"][cookie]:
                    asked = np.zeros(1, ROW)
                    asked["cookie"], asked["id"] = cookie, np.frombuffer(target, "S16")
                    forgotten += int(self._table.find(asked)[0] == NONE)
        return forgotten

    # Sessions

    def _fold_in(self, new: Rows, replaced: Ints, *, again: bool) -> Changed:
        new = new[np.lexsort((new["id"], new["at"], new["cookie"]))]
        cookies = np.unique(new["cookie"]).astype(np.int64)
        owners = np.searchsorted(cookies, new["cookie"])
        is_general = self._is_undone[cookies]
        is_general[owners[self._is_out_of_order(new)]] = True
        is_general[np.searchsorted(cookies, self._table.rows["cookie"][replaced])] = True

        is_quick = new["is_active"] & ~is_general[owners]
        before = self._last[cookies]
        folded = fold(new[is_quick], owners[is_quick], before, self._policy, self._memory.words)
        after = folded.last(before)
        self._count(new[is_quick])
        changed = Changed(folded.sessions, cookies[folded.cookies], [], {}, 0)
        if is_general.any():
            general = cookies[is_general]
            found, after[is_general] = self._fold_again(general, new[is_general[owners]], replaced)
            changed = _joined(changed, found)
        self._last[cookies] = after
        self._table.remove(replaced)
        numbers = self._table.append(new, 0)
        forgetting = self._to_forget(cookies)
        if len(forgetting):
            if again:
                changed = _joined(changed, self._everything_of(forgetting))
            self._forget(forgetting)
            numbers = numbers[self._table.is_there()[numbers]]
        items = self._log.write(self._table, numbers, self._base, forgetting, self._memory.names(), anew=self._is_to_compact())
        return changed._replace(items=items)

    def _fold_again(self, cookies: Ints, new: Rows, replaced: Ints) -> tuple[Changed, Sessions]:
        """What new rows, of which some replace others, change for cookies that are folded from their bases on; their last sessions."""
        numbers = self._table.of(cookies)
        was = self._table.rows[numbers]
        now = np.concatenate([self._table.rows[np.setdiff1d(numbers, replaced)], new])
        base = self._base[cookies]
        then = self._folded(was, cookies, base).with_bases(base)
        folded = self._folded(now, cookies, base)
        after = folded.last(base)
        self._count_anew(self._activity(now), cookies)
        folded = folded.with_bases(base)
        upserts, removed = _differences(then, folded, cookies)
        return Changed(folded.sessions[upserts], cookies[folded.cookies[upserts]], removed, {}, 0), after

    def _folded(self, rows: Rows, cookies: Ints, before: Sessions) -> Folded:
        """All rows of these cookies, in any order."""
        rows = self._activity(rows)
        return fold(rows, np.searchsorted(cookies, rows["cookie"]), before, self._policy, self._memory.words)

    def _activity(self, rows: Rows) -> Rows:
        """Of all rows of some cookies those that are activity that nothing retracts, in order."""
        counts = rows["is_active"].copy()
        for cookie in np.unique(rows["cookie"][self._is_undone[rows["cookie"]]]).tolist():
            places = np.flatnonzero(rows["cookie"] == cookie)
            counts[places] &= ~self._is_retracted(rows[places])
        rows = rows[counts]
        return rows[np.lexsort((rows["id"], rows["at"], rows["cookie"]))]

    def _is_retracted(self, rows: Rows) -> Flags:
        """Of all rows of one cookie."""
        ids = [EventId(id_) for id_ in id_texts(rows["id"])]
        events: list[tuple[Millis, EventId, EventId | None]] = [
            (Millis(at), id_, None)
            for at, id_, is_active in zip(rows["at"].tolist(), ids, rows["is_active"].tolist(), strict=True)
            if is_active
        ]
        gone = retracted_among([*events, *self._memory.retractions(rows)])
        return np.array([id_ in gone for id_ in ids], np.bool_)

    def _is_out_of_order(self, new: Rows) -> Flags:
        """Whether a row is activity that is not after all that its cookie has done."""
        last = self._last[new["cookie"]]
        ended, last_id = last["ended_at"], last["last_event_id"]
        after = (new["at"] > ended) | ((new["at"] == ended) & (new["id"] > last_id))
        late: Flags = new["is_active"] & ~after & (last["number"] > 0)
        return late

    def _count_anew(self, active: Rows, cookies: Ints) -> None:
        """How much activity is remembered of these cookies, and from when, is what the sorted rows say."""
        self._active[cookies], self._oldest[cookies] = 0, _FAR
        self._count(active)

    def _count(self, active: Rows) -> None:
        """The sorted rows are remembered, too."""
        owners = active["cookie"]
        heads = np.flatnonzero(np.diff(owners, prepend=-1))
        self._active[owners[heads]] += np.diff(heads, append=len(owners))
        self._oldest[owners[heads]] = np.minimum(self._oldest[owners[heads]], active["at"][heads])

    # Forgetting

    def _to_forget(self, cookies: Ints) -> Ints:
        """Those of these cookies for which it is time."""
        period, most = self._retention
        count, last = self._active[cookies], self._last["ended_at"][cookies]
        remembered = last - np.where(count > 0, self._oldest[cookies], last)
        return cookies[(remembered > period * _SLACK) | (count > most * _SLACK)]

    def _forget(self, cookies: Ints) -> None:
        """Forgets the oldest events of these cookies; they have a new base then."""
        period, most = self._retention
        numbers = self._table.of(cookies)
        active = self._activity(self._table.rows[numbers])
        heads = np.flatnonzero(np.diff(active["cookie"], prepend=-1))
        counts = np.diff(heads, append=len(active))
        latest, place = active["at"][heads + counts - 1], np.arange(len(active)) - np.repeat(heads, counts)
        is_beyond = (active["at"] < np.repeat(latest - period, counts)) | (place < np.repeat(counts - most, counts))
        base = self._base[cookies]
        self._base[cookies] = self._folded(active[is_beyond], cookies, base).last(base)
        self._count_anew(active[~is_beyond], cookies)
        self._table.remove(numbers[self._is_forgotten(self._table.rows[numbers])])

    def _is_forgotten(self, rows: Rows) -> Flags:
        """Of rows: whether their cookies' bases speak for them. What is no activity, another cookie's say, is as old as its latest copy."""
        forgotten = self._is_forgotten_time(rows)
        for place in np.flatnonzero(forgotten & ~rows["is_active"] & (rows["copies"] > 0)).tolist():
            forgotten[place] = self._memory.latest_copy(rows, place) <= self._base["ended_at"][int(rows["cookie"][place])]
        return forgotten


def _joined(changed: Changed, also: Changed) -> Changed:
    """Two parts of what a batch changed."""
    sessions, cookies = np.concatenate([changed.sessions, also.sessions]), np.concatenate([changed.cookies, also.cookies])
    return Changed(sessions, cookies, [*changed.removed, *also.removed], {}, 0)


def _is_same_event(rows: Rows, others: Rows) -> Flags:
    same: Flags = (rows["cookie"] == others["cookie"]) & (rows["id"] == others["id"])
    return same


def _says_the_same(rows: Rows, others: Rows) -> Flags:
    """Whether both are plain page views that are equal in all that is compared."""
    same: Flags = (rows["copies"] == 0) & (others["copies"] == 0) & (rows["starts"] == others["starts"])
    for name in TEXTS:
        same &= rows[name] == others[name]
    return same


def _differences(then: Folded, now: Folded, cookies: Ints) -> tuple[list[int], list[tuple[int, bytes]]]:
    """Which sessions of `now` are new or different, and the cookies and first events of those of `then` that are gone."""
    before = {_key(then, place): then.sessions[place : place + 1].tobytes() for place in range(len(then.sessions))}
    after = [_key(now, place) for place in range(len(now.sessions))]
    upserts = [place for place, key in enumerate(after) if before.get(key) != now.sessions[place : place + 1].tobytes()]
    gone = before.keys() - set(after)
    return upserts, [(int(cookies[cookie]), first) for cookie, first in before if (cookie, first) in gone]


def _begin_nothing(rows: Rows, now: Folded, cookies: Ints) -> list[tuple[int, bytes]]:
    """The cookies and events of these rows with which no session begins."""
    ids = rows["id"].tobytes()
    events = {(cookie, ids[at : at + 16]) for cookie, at in zip(rows["cookie"].tolist(), range(0, len(ids), 16), strict=True)}
    return sorted(events - {(int(cookies[cookie]), first) for cookie, first in map(partial(_key, now), range(len(now.sessions)))})


def _key(folded: Folded, place: int) -> tuple[int, bytes]:
    return int(folded.cookies[place]), folded.sessions["first_event_id"][place : place + 1].tobytes()
