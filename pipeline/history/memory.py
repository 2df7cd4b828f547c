"""What the numbers in rows stand for: cookies, texts, and the copies of events of which rows do not say all."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.core.copies import Trace, merge_traces
from pipeline.core.events import EventId, Millis, PageView, PortalId, Retraction, Utk
from pipeline.core.sessions import Kept, activity_of_trace, keep
from pipeline.history.arrivals import Arrivals
from pipeline.history.blocks import Block, Names
from pipeline.history.shapes import NEVER, ROW, SESSION, SESSION_TEXTS, TEXTS, Ints, Rows, Sessions, id_texts, ids_of
from pipeline.history.words import Words

Targets = Mapping[tuple[int, bytes], bytes]
"""What retractions retract (an event id), by their cookie and their own id."""

_SAID = ("at", "is_active", "starts", *TEXTS, "copies")
"""Columns of ROW."""
_NO_TEXTS = (0,) * len(TEXTS)

_encode_copies = msgspec.msgpack.Encoder().encode
_decode_copies = msgspec.msgpack.Decoder(tuple[Trace, ...]).decode


class Memory:
    """Of one partition. Cookies keep their numbers; texts and copies keep theirs until `compact`."""

    def __init__(self) -> None:
        self.words = Words()
        self._cookies = _Cookies()
        self._copies: list[bytes] = [b""]
        """As msgpack; number 0 is none."""

    def __len__(self) -> int:
        """How many cookies there are."""
        return len(self._cookies.names)

    # Events as rows

    def rows(self, arrivals: Arrivals) -> tuple[Rows, Targets]:
        """A row for each event, and what the retractions among them retract."""
        views = arrivals.views
        rows = np.zeros(views.height + len(arrivals.others), ROW)
        if views.height:
            plain = rows[: views.height]
            plain["cookie"] = self._cookies.numbers(views["cookie"].to_list())
            plain["at"] = views["occurred_at"].to_numpy()
            plain["id"] = ids_of(views["event_id"].to_list())
            plain["is_active"] = True
            plain["starts"] = views["new_browser_session"].to_numpy()
            for name in TEXTS:
                plain[name] = self.words.numbers(views[name])
        cookies = self._cookies.numbers([name for name, _ in arrivals.others])
        self.put(rows[views.height :], cookies, [keep(event, _split(name)[1]) for name, event in arrivals.others])
        targets: dict[tuple[int, bytes], bytes] = {}
        for cookie, (_, event) in zip(cookies.tolist(), arrivals.others, strict=True):
            if isinstance(event, Retraction):
                targets[cookie, ids_of([event.event_id]).tobytes()] = ids_of([event.retracts]).tobytes()
        return rows, targets

    def put(self, rows: Rows, cookies: Ints, kept: Sequence[Kept]) -> None:
        """What is kept of events as these rows, which are empty."""
        names = self._cookies.names
        values = [self._values(names[cookie], each) for cookie, each in zip(cookies.tolist(), kept, strict=True)]
        if not values:
            return
        ids, *columns = zip(*values, strict=True)
        rows["cookie"], rows["id"] = cookies, ids_of(ids)
        for name, column in zip(_SAID, columns, strict=True):
            rows[name] = column

    def _values(self, cookie: str, kept: Kept) -> tuple[Any, ...]:
        """The id of an event, and the columns _SAID."""
        number = self.words.number
        if isinstance(kept, PageView):
            texts = tuple(number(getattr(kept, name)) for name in TEXTS)
            return kept.event_id, kept.occurred_at, True, kept.new_browser_session, *texts, 0
        merged = merge_traces(kept)
        activity = activity_of_trace(merged, _split(cookie)[1])
        self._copies.append(_encode_copies(kept))
        copies = len(self._copies) - 1
        if activity is None:
            return merged.event_id, merged.occurred_at, False, False, *_NO_TEXTS, copies
        _, _, url, referrer, starts = activity
        texts = _NO_TEXTS if url is None else tuple(number({"url": url, "referrer": referrer}.get(name)) for name in TEXTS)
        return merged.event_id, merged.occurred_at, True, starts, *texts, copies

    def kept(self, rows: Rows, place: int) -> Kept:
        """What a row keeps of its event."""
        row = rows[place]
        if row["copies"]:
            return self._copies_of(row["copies"])
        (id_,) = id_texts(rows["id"][place : place + 1])
        portal, utk = _split(self._cookies.names[row["cookie"]])
        url, title, referrer, hstc, hssc, properties = (self.words.texts[row[name]] for name in TEXTS)
        at, starts = Millis(int(row["at"])), bool(row["starts"])
        return PageView(EventId(id_), portal, at, None, utk, url or "", title, referrer, None, None, starts, hstc, hssc, properties)

    def latest_copy(self, rows: Rows, place: int) -> Millis:
        """The time of the latest copy of a row's event, which has `copies`."""
        return max(copy.occurred_at for copy in self._copies_of(rows["copies"][place]))

    def retractions(self, rows: Rows) -> Iterator[tuple[Millis, EventId, EventId]]:
        """Time, id and target of the retractions among these rows."""
        for copies in rows["copies"][(rows["copies"] > 0) & ~rows["is_active"]].tolist():
            merged = merge_traces(self._copies_of(copies))
            if (retracts := merged.get("retracts")) is not None:
                yield merged.occurred_at, merged.event_id, retracts

    def _copies_of(self, number: int) -> tuple[Trace, ...]:
        return _decode_copies(self._copies[number])

    # All numbers

    def compact(self, rows: Rows, sessions: Iterable[Sessions]) -> None:
        """Lets all texts and copies go but those of these records, whose numbers are new then."""
        words, copies = Words(), [b""]
        for records, names in ((rows, TEXTS), *((each, SESSION_TEXTS) for each in sessions)):
            for name in names:
                used, places = np.unique(records[name], return_inverse=True)
                records[name] = words.numbers([self.words.texts[number] for number in used.tolist()])[places]
        for place in np.flatnonzero(rows["copies"] > 0).tolist():
            copies.append(self._copies[rows["copies"][place]])
            rows["copies"][place] = len(copies) - 1
        self.words, self._copies = words, copies

    def names(self) -> Names:
        return Names(self._cookies.names, self.words.texts, self._copies)

    def take(self, block: Block) -> tuple[Rows, Sessions, Ints]:
        """The rows and bases of a block, and the cookies of the bases, in numbers of ours."""
        cookies, texts = self._cookies.numbers(block.cookies), self.words.numbers(block.texts)
        rows, bases = block.rows, block.bases
        rows["cookie"] = cookies[rows["cookie"]]
        for records, names in ((rows, TEXTS), (bases, SESSION_TEXTS)):
            for name in names:
                records[name] = texts[records[name]]
        has_copies = rows["copies"] > 0
        rows["copies"][has_copies] += len(self._copies) - 1
        self._copies += block.copies[1:]
        return rows, bases, cookies[block.of_bases]

    # For readers

    def cookie(self, number: int) -> str:
        return self._cookies.names[number]

    def frame(self, sessions: Sessions, cookies: Ints) -> pl.DataFrame:
        """Sessions as columns: `portal_id`, `utk`, and the fields of `core.sessions.Session`."""
        used, places = np.unique(cookies, return_inverse=True)
        names = [_split(self._cookies.names[cookie]) for cookie in used.tolist()]
        columns = [
            pl.Series("portal_id", [portal for portal, _ in names], pl.Int64).gather(places),
            pl.Series("utk", [utk for _, utk in names], pl.String).gather(places),
        ]
        for name in SESSION.names or ():
            column = np.ascontiguousarray(sessions[name])
            if name in SESSION_TEXTS:
                columns.append(self._texts(column).alias(name))
            elif name.endswith("_id"):
                columns.append(pl.Series(name, id_texts(column), pl.String))
            else:
                columns.append(pl.Series(name, column, pl.Int64))
        return pl.DataFrame(columns).with_columns(pl.col("previous_started_at").replace(NEVER, None))

    def _texts(self, numbers: npt.NDArray[np.int32]) -> pl.Series:
        used, places = np.unique(numbers, return_inverse=True)
        return pl.Series([self.words.texts[number] for number in used.tolist()], dtype=pl.String).gather(places)


class _Cookies(dict[str, int]):
    """Cookies (`portal|utk`) by number, as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self.names)
        self.names.append(name)
        return number

    def numbers(self, names: Sequence[str]) -> Ints:
        return np.fromiter(map(self.__getitem__, names), np.int64, len(names))


def _split(cookie: str) -> tuple[PortalId, Utk]:
    portal, _, utk = cookie.partition("|")
    return PortalId(int(portal)), Utk(utk)
