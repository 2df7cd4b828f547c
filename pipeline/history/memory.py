"""What the numbers in rows stand for: cookies, texts, and the copies of events of which rows do not say all."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np

from pipeline.core.copies import Trace, merge_traces
from pipeline.core.events import EventId, Millis, PageView, PortalId, Retraction, Utk
from pipeline.core.sessions import Kept, activity_of_trace, keep
from pipeline.history.arrivals import Arrivals
from pipeline.history.blocks import Block, Names
from pipeline.history.shapes import NEVER, ROW, SESSION, SESSION_TEXTS, TEXTS, Ints, Rows, Sessions, id_texts, ids_of
from pipeline.history.words import Words

Targets = Mapping[tuple[int, bytes], bytes]
"""What retractions retract (an event id), by their cookie and their own id."""

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
        targets: dict[tuple[int, bytes], bytes] = {}
        for place, (name, event) in enumerate(arrivals.others, views.height):
            cookie = self._cookies[name]
            self.put(rows, place, cookie, keep(event, _split(name)[1]))
            if isinstance(event, Retraction):
                targets[cookie, rows["id"][place : place + 1].tobytes()] = ids_of([event.retracts]).tobytes()
        return rows, targets

    def put(self, rows: Rows, place: int, cookie: int, kept: Kept) -> None:
        """What is kept of an event as one of the rows."""
        row = rows[place : place + 1]
        row["cookie"] = cookie
        number = self.words.number
        if isinstance(kept, PageView):
            row["id"], row["at"], row["is_active"] = ids_of([kept.event_id]), kept.occurred_at, True
            row["starts"] = kept.new_browser_session
            for name in TEXTS:
                row[name] = number(getattr(kept, name))
            return
        merged = merge_traces(kept)
        row["id"], row["at"] = ids_of([merged.event_id]), merged.occurred_at
        activity = activity_of_trace(merged, _split(self._cookies.names[cookie])[1])
        if activity is not None:
            _, _, url, referrer, starts = activity
            row["is_active"], row["starts"], row["url"], row["referrer"] = True, starts, number(url), number(referrer)
        row["copies"] = len(self._copies)
        self._copies.append(_encode_copies(kept))

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

    def columns(self, sessions: Sessions, cookies: Ints) -> list[list[object]]:
        """Sessions as columns: portal, utk, and the fields of `core.sessions.Session`."""
        names = [_split(self._cookies.names[cookie]) for cookie in cookies.tolist()]
        found: list[list[object]] = [[portal for portal, _ in names], [utk for _, utk in names]]
        for name in SESSION.names or ():
            column = sessions[name]
            if name in SESSION_TEXTS:
                found.append([self.words.texts[number] for number in column.tolist()])
            elif name.endswith("_id"):
                found.append(list(id_texts(np.ascontiguousarray(column))))
            elif name == "previous_started_at":
                found.append([None if at == NEVER else at for at in column.tolist()])
            else:
                found.append(column.tolist())
        return found


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
