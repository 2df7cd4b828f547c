"""One cookie in memory: what nearly all activity needs stands ready, all else is packed.

Most events are new, and come after all that their cookie has done. For these, the fold's last session is all there is to know
(`Visitor.append`); anything else (a copy, a late event, one to forget) unpacks the cookie and asks the core
(`Visitor.advance`). Both write the same: the sessions that changed, and *chunks* for the changelog, each with some events and all
their copies, numbered; a later chunk speaks for an event instead of an earlier one. `restore` reads them back.

A trace (core/copies.py) takes as long to make as all the rest, and is needed only when another copy comes. So page views
are chunked as they are, without the fields that are not compared; `advance` makes their traces.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import lz4.block
import msgspec

from pipeline.core.copies import KEPT_BY_SESSIONS, Trace, trace
from pipeline.core.events import Event, EventId, Millis, PageView, PortalId, Utk
from pipeline.core.policy import SessionPolicy
from pipeline.core.sessions import Activity, CookieState, Retention, Session, SessionChanges, activity_of, advance, fold

CHUNK_BYTES = 250_000
"""Larger chunks are cut in two, unless they are of one event; Kafka takes a megabyte."""
_UNPACKED = 4
"""So many chunks of a cookie stay as they are before they are packed together: packing costs more than a small event is worth."""
_SCATTERED = 16
"""With so many more chunks in the changelog than its size needs, a cookie is written anew."""

_LONG_PROPERTIES = 256
"""Characters. Longer ones are kept as a digest, in a trace."""

Cookie = tuple[PortalId, Utk]
View = tuple[Any, ...]
"""A page view as it is chunked: the values of `_VIEW`."""
_VIEW = ("event_id", "occurred_at", "url", "title", "referrer", "new_browser_session", "hstc", "hssc", "properties")


class Chunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Some events of a cookie, each in one of the two forms."""

    copies: dict[EventId, tuple[Trace, ...]] = {}
    """All copies of an event."""
    views: Sequence[View] = ()
    """Page views of this cookie of which there is one copy."""


_encode = msgspec.msgpack.Encoder().encode
_decode_session = msgspec.msgpack.Decoder(Session).decode
_decode_chunk = msgspec.msgpack.Decoder(Chunk).decode
_decode_chunks = msgspec.msgpack.Decoder(list[Chunk]).decode
_place = itemgetter(0, 1)
_view = attrgetter(*_VIEW)
_digest = struct.Struct("q").pack


class Rules(NamedTuple):
    """What all cookies have in common."""

    policy: SessionPolicy
    retention: Retention


class Written(NamedTuple):
    """What a batch of one cookie means: sessions for readers, and for the changelog chunks by number (None: gone) and what is forgotten."""

    upserts: Sequence[Session]
    removed: Sequence[EventId]
    chunks: Mapping[int, bytes | None]
    forgotten: bytes | None
    late: int


class Visitor(msgspec.Struct, gc=False):
    """One cookie of a portal. Mutable; everything packed. About 130 bytes an event."""

    cookie: Cookie

    older: bytes = b""
    """Chunks in LZ4."""
    newer: tuple[bytes, ...] = ()
    """Chunks after them."""
    first: int = 0
    """Number of the first chunk that is in the changelog."""
    end: int = 0
    """Number of the next chunk."""
    forgotten: bytes = b""
    """The fold's session after what is forgotten; empty if nothing is."""
    last: bytes | None = b""
    """The fold's session after everything; empty if there is none yet, None if it is not known."""
    ids: bytes = b""
    """Eight bytes of each remembered event: whether one was there before. Right only while `last` is known, like `oldest`."""
    oldest: Millis = Millis(0)
    """When the oldest remembered activity was; 0 if there is none."""

    @classmethod
    def restore(cls, cookie: Cookie, chunks: Mapping[int, bytes], forgotten: bytes) -> "Visitor":
        """From what was written."""
        packed = _pack([chunks[number] for number in sorted(chunks)])
        return cls(cookie, packed, (), min(chunks), max(chunks) + 1, forgotten, None)

    def append(self, events: Sequence[Event], rules: Rules) -> Written | None:
        """Adds activity that follows all there is; None, and nothing done, if it may be anything else."""
        if self.last is None:
            return None
        activity = _own_activity(events, self.cookie[1])
        if activity is None:
            return None
        ids = [_digest(hash(at_id[1])) for at_id in activity]
        known = self.ids
        if len(set(ids)) < len(ids) or (known and any(id_ in known for id_ in ids)):
            return None
        activity.sort(key=_place)
        last = _decode_session(self.last) if self.last else None
        if last is not None and activity[0][:2] <= (last.ended_at, last.last_event_id):
            return None
        oldest = self.oldest or activity[0][0]
        if rules.retention.is_exceeded(oldest, activity[-1][0], len(known) // 8 + len(ids)):
            return None
        sessions = fold(activity, rules.policy, last)
        if last is not None and sessions[0].last_event_id == last.last_event_id:
            del sessions[0]
        chunks = self._write(_chunk(events))
        self.last = _encode(sessions[-1])
        self.ids = known + b"".join(ids)
        self.oldest = oldest
        return Written(sessions, (), chunks, None, 0)

    def advance(self, events: Sequence[Event], rules: Rules) -> Written:
        """Adds anything, as `sessions.advance` does."""
        traces = [trace(event, KEPT_BY_SESSIONS) for event in events]
        state, changes = advance(self._state(), traces, self.cookie[1], rules.policy, rules.retention)
        if not changes.events:
            return Written((), (), {}, None, changes.late)
        self._know(state, changes)
        forgets = changes.forgotten is not None
        if forgets or self._is_scattered(len(state.copies)):
            chunks = self._rewrite(Chunk(state.copies))
        else:
            chunks = self._write(Chunk({event_id: copies for event_id, copies in changes.events.items() if copies is not None}))
        if forgets:
            self.forgotten = _encode(changes.forgotten)
        return Written(changes.upserts, changes.removed, chunks, self.forgotten if forgets else None, changes.late)

    def _state(self) -> CookieState:
        """Everything, unpacked. Traces that had to be made for it are kept."""
        copies: dict[EventId, tuple[Trace, ...]] = {}
        made = False
        for chunk in (*(_decode_chunks(lz4.block.decompress(self.older)) if self.older else ()), *map(_decode_chunk, self.newer)):
            for view in chunk.views:
                event = _event(self.cookie, view)
                copies[event.event_id] = (trace(event, KEPT_BY_SESSIONS),)
                made = True
            copies |= chunk.copies
        if made:
            self.older, self.newer = _pack([_encode(Chunk(copies))]), ()
        return CookieState(_decode_session(self.forgotten) if self.forgotten else None, copies)

    def _know(self, state: CookieState, changes: SessionChanges) -> None:
        """Makes ready what `append` needs."""
        self.last = _encode(changes.last) if changes.last is not None else b""
        self.oldest = changes.oldest
        self.ids = b"".join(_digest(hash(event_id)) for event_id in state.copies)

    def _write(self, chunk: Chunk) -> dict[int, bytes | None]:
        """Some events as a further chunk or several, also in memory."""
        chunks = list(_encoded(chunk))
        self.newer = (*self.newer, *chunks)
        if len(self.newer) > _UNPACKED:
            self.older, self.newer = _pack([*_unpack(self.older), *self.newer]), ()
        numbers = range(self.end, self.end + len(chunks))
        self.end = numbers.stop
        return dict(zip(numbers, chunks, strict=True))

    def _rewrite(self, chunk: Chunk) -> dict[int, bytes | None]:
        """All events in new chunks, instead of all before."""
        gone: dict[int, bytes | None] = dict.fromkeys(range(self.first, self.end))
        self.first, self.older, self.newer = self.end, b"", ()
        return gone | self._write(chunk)

    def _is_scattered(self, events: int) -> bool:
        return self.end - self.first > _SCATTERED + events // 100


def _own_activity(events: Iterable[Event], utk: Utk) -> list[Activity] | None:
    """What sessions see of the events; None if one is of another cookie, or no activity."""
    found = []
    for event in events:
        activity = activity_of(event)
        if activity is None or event.utk != utk:
            return None
        found.append(activity)
    return found


def _chunk(events: Iterable[Event]) -> Chunk:
    """The first copies of these events of one cookie."""
    copies: dict[EventId, tuple[Trace, ...]] = {}
    views: list[View] = []
    for event in events:
        if type(event) is PageView and len(event.properties or "") <= _LONG_PROPERTIES:
            views.append(_view(event))
        else:
            copies[event.event_id] = (trace(event, KEPT_BY_SESSIONS),)
    return Chunk(copies, views)


def _event(cookie: Cookie, view: View) -> PageView:
    """The page view that was chunked, without the fields that are not compared."""
    event_id, occurred_at, url, title, referrer, starts, hstc, hssc, properties = view
    return PageView(event_id, cookie[0], occurred_at, None, cookie[1], url, title, referrer, None, None, starts, hstc, hssc, properties)


def _encoded(chunk: Chunk) -> Iterator[bytes]:
    """As bytes; in several pieces if they are many."""
    encoded = _encode(chunk)
    if len(encoded) <= CHUNK_BYTES or len(chunk.copies) + len(chunk.views) == 1:
        yield encoded
        return
    copies, views = list(chunk.copies.items()), chunk.views
    copy, view = len(copies) // 2, (len(views) + 1) // 2
    yield from _encoded(Chunk(dict(copies[:copy]), views[:view]))
    yield from _encoded(Chunk(dict(copies[copy:]), views[view:]))


def _pack(chunks: Sequence[bytes | msgspec.Raw]) -> bytes:
    packed: bytes = lz4.block.compress(_encode([msgspec.Raw(chunk) for chunk in chunks]))
    return packed


def _unpack(older: bytes) -> list[msgspec.Raw]:
    return msgspec.msgpack.decode(lz4.block.decompress(older), type=list[msgspec.Raw]) if older else []
