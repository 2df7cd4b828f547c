"""One cookie in memory: what nearly all activity needs stands ready, all else is packed.

| what arrives | what is unpacked |
|---|---|
| activity after all that the cookie has done, as nearly all is | nothing: the fold's last session is all there is to know (`_append`) |
| anything that concerns only the cookie's last few events | these (`_advance_newer`, from the fold's state before them) |
| all else: another copy of an older event, an event from longer ago, its retraction, something to forget | everything (`_advance_all`) |

All three write the same: the sessions that changed, and *chunks* for the changelog, each with some events, numbered; a later chunk
speaks for an event instead of an earlier one. `restore` reads them back. In memory chunks are shorter: an event id is 16 bytes, and a
text that others have too is a number (words.py).
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import lz4.block
import msgspec

from pipeline.agents.words import Words
from pipeline.core.copies import Trace
from pipeline.core.events import Event, EventId, Millis, PageView, PortalId, Retraction, Utk
from pipeline.core.policy import SessionPolicy
from pipeline.core.sessions import (
    Activity,
    CookieState,
    Kept,
    Retention,
    Session,
    activity_in,
    activity_of,
    advance,
    fold,
    keep,
)

CHUNK_BYTES = 250_000
"""Larger chunks are cut in two, unless they are of one event; Kafka takes a megabyte."""
_NEWER = 8
"""So many chunks stay unpacked; then most of their events are packed."""
_SCATTERED = 16
"""With so many more chunks in the changelog than its size needs, a cookie is written anew."""

Cookie = tuple[PortalId, Utk]
View = tuple[Any, ...]
"""A page view as it is chunked, the values of `VIEW`: without the fields that are not compared, and those of the cookie; or shortened."""
VIEW = ("event_id", "occurred_at", "url", "title", "referrer", "new_browser_session", "hstc", "hssc", "properties")


class Chunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Some events of a cookie, as `sessions.Kept`."""

    copies: dict[EventId, tuple[Trace, ...]]
    views: Sequence[View]


_encode = msgspec.msgpack.Encoder().encode
_decode_session = msgspec.msgpack.Decoder(Session).decode
_decode_chunk = msgspec.msgpack.Decoder(Chunk).decode
_decode_chunks = msgspec.msgpack.Decoder(list[Chunk]).decode
_place = itemgetter(0, 1)
_view = attrgetter(*VIEW)
_digest = struct.Struct("q").pack


class Rules(NamedTuple):
    """What all cookies have in common."""

    policy: SessionPolicy
    retention: Retention
    words: Words


class Written(NamedTuple):
    """What a batch of one cookie means: sessions for readers, and for the changelog chunks by number (None: gone) and what is forgotten."""

    upserts: Sequence[Session]
    removed: Sequence[EventId]
    chunks: Mapping[int, bytes | None]
    forgotten: bytes | None
    late: int


class Visitor(msgspec.Struct, gc=False):
    """One cookie of a portal, packed."""

    cookie: Cookie
    older: tuple[bytes, ...] = ()
    """Lists of chunks in LZ4: all events up to `base`."""
    base: bytes = b""
    """The fold's session after `older`, before `newer`; empty if there is none."""
    newer: tuple[bytes, ...] = ()
    """Chunks."""
    first: int = 0
    """Number of the first chunk that is in the changelog."""
    end: int = 0
    """Number of the next chunk."""
    forgotten: bytes = b""
    """The fold's session after what is forgotten; empty if nothing is."""
    last: bytes | None = b""
    """The fold's session after everything; empty if there is none. None after `restore`: then `base`, `ids`, `oldest` are unknown, too."""
    ids: bytes = b""
    """Eight bytes of each remembered event, and of each that is retracted here: whether one must be looked up."""
    oldest: Millis = Millis(0)
    """When the oldest remembered activity was; 0 if there is none."""

    @classmethod
    def restore(cls, cookie: Cookie, chunks: Mapping[int, bytes], forgotten: bytes) -> "Visitor":
        """From what was written."""
        older = _packed([chunks[number] for number in sorted(chunks)])
        return cls(cookie, (older,), first=min(chunks), end=max(chunks) + 1, forgotten=forgotten, last=None)

    def add(self, events: Sequence[Event], rules: Rules) -> Written:
        """Adds events whose records have this cookie as their key."""
        if self.last is None:
            return self._advance_all(events, rules)
        ids = [_digest(hash(event.event_id)) for event in events]
        known = [id_ in self.ids for id_ in ids]
        times = [event.occurred_at for event in events]
        if rules.retention.is_exceeded(min(self.oldest or _FAR, *times), max(times), len(known) + len(self.ids) // 8):
            return self._advance_all(events, rules)
        if not any(known) and len(set(ids)) == len(ids) and (written := self._append(events, rules)):
            self.ids += b"".join(ids)
            return written
        newer = CookieState(_session(self.base), self._unpacked(map(_decode_chunk, self.newer), rules.words))
        for event, there in zip(events, known, strict=True):
            retracts = event.retracts if isinstance(event, Retraction) else None
            if newer.is_late(event) or (there and event.event_id not in newer.events) or (retracts and retracts not in newer.events):
                return self._advance_all(events, rules)
        return self._advance_newer(events, rules, newer)

    def _append(self, events: Sequence[Event], rules: Rules) -> Written | None:
        """Adds new events if they are activity that follows all there is; None, and nothing done, if not."""
        activity = _own_activity(events, self.cookie[1])
        if activity is None:
            return None
        activity.sort(key=_place)
        last = _session(self.last or b"")
        if last is not None and activity[0][:2] <= (last.ended_at, last.last_event_id):
            return None
        sessions = fold(activity, rules.policy, last)
        if last is not None and sessions[0].last_event_id == last.last_event_id:
            del sessions[0]
        self.last = _encode(sessions[-1])
        self.oldest = self.oldest or activity[0][0]
        chunks = self._write({event.event_id: keep(None, event, self.cookie[1]) for event in events}, rules)
        return Written(sessions, (), chunks, None, 0)

    def _advance_newer(self, events: Sequence[Event], rules: Rules, state: CookieState) -> Written:
        """Adds anything that concerns only the newer events."""
        _, changes = advance(state, events, self.cookie[1], rules.policy, _FOREVER)
        if not changes.events:
            return Written((), (), {}, None, 0)
        self.last = packed_session(changes.last)
        self.ids += b"".join(_digest(hash(event_id)) for event_id in changes.events if event_id not in state.events)
        self.ids += b"".join(_digest(hash(event.retracts)) for event in events if isinstance(event, Retraction))
        self.oldest = min(self.oldest or _FAR, *(event.occurred_at for event in events))
        return Written(changes.upserts, changes.removed, self._write(changes.events, rules), None, 0)

    def _advance_all(self, events: Sequence[Event], rules: Rules) -> Written:
        """Adds anything."""
        before = CookieState(_session(self.forgotten), self.remembered(rules.words))
        state, changes = advance(before, events, self.cookie[1], rules.policy, rules.retention)
        if changes.events or self.last is None:
            self._know(state, rules)
        if not changes.events:
            return Written((), (), {}, None, changes.late)
        if changes.before is not None:
            self.forgotten = packed_session(changes.before)
        if changes.before is not None or self.end - self.first > _SCATTERED + len(state.events) // 100:
            gone: dict[int, bytes | None] = dict.fromkeys(range(self.first, self.end))
            self.first = self.end
            chunks = gone | self._numbered(_encoded(_chunk(state.events)))
        else:
            chunks = self._numbered(_encoded(_chunk(changes.events)))
        return Written(changes.upserts, changes.removed, chunks, self.forgotten if changes.before is not None else None, changes.late)

    def _know(self, state: CookieState, rules: Rules) -> None:
        """Packs everything anew."""
        activity = activity_in(state.events, self.cookie[1])
        self.oldest = activity[0][0] if activity else Millis(0)
        self.ids = b"".join(_digest(hash(event_id)) for event_id in (*state.events, *_retracted_by(state.events)))
        before = packed_session(state.before)
        self.older, self.base = (), self.forgotten if before == self.forgotten else before
        self._pack_before(max(0, len(activity) - _NEWER), activity, state.events, rules)
        sessions = fold(activity[-_NEWER:], rules.policy, _session(self.base))
        self.last = packed_session(sessions[-1] if sessions else None)

    def _write(self, events: Mapping[EventId, Kept | None], rules: Rules) -> dict[int, bytes | None]:
        """Some events as further chunks."""
        chunk = _chunk(events)
        self.newer = (*self.newer, _shortened(chunk, rules.words))
        if len(self.newer) > _NEWER:
            newer = self._unpacked(map(_decode_chunk, self.newer), rules.words)
            activity = activity_in(newer, self.cookie[1])
            self._pack_before(len(activity) * 3 // 4, activity, newer, rules)
        return self._numbered(_encoded(chunk))

    def _pack_before(self, place: int, activity: Sequence[Activity], newer: Mapping[EventId, Kept], rules: Rules) -> None:
        """Packs all newer events but for the activity from this place on."""
        staying = {event_id for _, event_id, *_ in activity[place:]}
        moving = {event_id: kept for event_id, kept in newer.items() if event_id not in staying}
        if moving:
            self.older = (*self.older, _packed([_shortened(_chunk(moving), rules.words)]))
        if place:
            self.base = _encode(fold(activity[:place], rules.policy, _session(self.base))[-1])
        self.newer = (_shortened(_chunk({event_id: newer[event_id] for event_id in staying}), rules.words),) if staying else ()

    def _numbered(self, chunks: Iterable[bytes]) -> dict[int, bytes | None]:
        numbered: dict[int, bytes | None] = dict(enumerate(chunks, self.end))
        self.end += len(numbered)
        return numbered

    def remembered(self, words: Words) -> dict[EventId, Kept]:
        """All events that are remembered, unpacked."""
        older = (chunk for packed in self.older for chunk in _decode_chunks(lz4.block.decompress(packed)))
        return self._unpacked((*older, *map(_decode_chunk, self.newer)), words)

    def _unpacked(self, chunks: Iterable[Chunk], words: Words) -> dict[EventId, Kept]:
        """The events of these chunks."""
        portal, utk = self.cookie
        events: dict[EventId, Kept] = {}
        for chunk in chunks:
            for view in chunk.views:
                id_, at, url, title, referrer, starts, hstc, hssc, properties = (
                    _lengthened(view, words) if isinstance(view[0], bytes) else view
                )
                events[id_] = PageView(id_, portal, at, None, utk, url, title, referrer, None, None, starts, hstc, hssc, properties)
            events |= chunk.copies
        return events


_FAR = Millis(1 << 62)
_FOREVER = Retention(1 << 62, 1 << 62)


def _own_activity(events: Iterable[Event], utk: Utk) -> list[Activity] | None:
    """What sessions see of the events; None if one is of another cookie, or no activity."""
    found = []
    for event in events:
        activity = activity_of(event)
        if activity is None or event.utk != utk:
            return None
        found.append(activity)
    return found


def _retracted_by(events: Mapping[EventId, Kept]) -> Iterator[EventId]:
    """What retractions among the events name, in any of their copies."""
    for kept in events.values():
        if isinstance(kept, tuple):
            yield from (retracts for copy in kept if (retracts := copy.get("retracts")) is not None)


def _session(packed: bytes) -> Session | None:
    return _decode_session(packed) if packed else None


def packed_session(session: Session | None) -> bytes:
    """A state of the fold as it is written when what came before it is forgotten."""
    return b"" if session is None else _encode(session)


def _chunk(events: Mapping[EventId, Kept | None]) -> Chunk:
    """These events, without those that are gone."""
    copies = {event_id: kept for event_id, kept in events.items() if isinstance(kept, tuple)}
    return Chunk(copies, [_view(kept) for kept in events.values() if isinstance(kept, PageView)])


def _shortened(chunk: Chunk, words: Words) -> bytes:
    """The chunk for live memory."""
    number, short = words.numbers.get, words.shortened
    views = []
    for id_, at, url, title, referrer, starts, hstc, hssc, properties in chunk.views:
        texts = number(url) or short(url), number(title) or short(title), number(referrer) or short(referrer)
        views.append((bytes.fromhex(id_.replace("-", "")), at, *texts, starts, hstc, hssc, properties))
    return _encode(Chunk(chunk.copies, views))


def _lengthened(view: View, words: Words) -> View:
    """A page view of `_shortened` as it was."""
    id_, at, url, title, referrer, *more = view
    digits = id_.hex()
    id_ = EventId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")
    return id_, at, words.text(url), words.text(title), words.text(referrer), *more


def encoded_chunks(copies: dict[EventId, tuple[Trace, ...]], views: Sequence[View]) -> Iterator[bytes]:
    """Some events of a cookie, none of them twice, as they are written."""
    return _encoded(Chunk(copies, views))


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


def _packed(chunks: Sequence[bytes]) -> bytes:
    packed: bytes = lz4.block.compress(_encode([msgspec.Raw(chunk) for chunk in chunks]))
    return packed
