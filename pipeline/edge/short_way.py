"""The short way of nearly all requests: usual page views that came in one piece, while Kafka is there.

No task, no ASGI, no route, and the answer goes out as soon as Kafka has the records. The decisions are those of `Collector.hits`, and
so are the answers (a test compares them); whatever is unusual is left to it before anything has happened.
"""

import re
import time
from dataclasses import dataclass
from functools import lru_cache, partial

import orjson

from pipeline.core.events import PageView, PortalId
from pipeline.edge import answers, asked, metrics
from pipeline.edge.collector import Collector
from pipeline.edge.connections import Whole
from pipeline.edge.core.plain_hits import plain_events
from pipeline.edge.delivery import Then
from pipeline.edge.renewal import renewed

_PATH = re.compile(rb"/e/([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class ShortWay:
    """Of a collector."""

    collector: Collector

    def take(self, request: Whole) -> bool:
        """Answers the request, now or when its page views are safe: True. False, and nothing done, if it is not of the usual kind."""
        try:
            return self._take(request)
        except Exception as error:  # noqa: BLE001 - the outermost frame of a request
            request.respond(answers.bug(error))
            return True

    def _take(self, request: Whole) -> bool:
        began, collector, told = time.perf_counter(), self.collector, request.told
        place = _PATH.fullmatch(request.url)
        portal = collector.portals.get(PortalId(int(place[1]))) if place else None
        origin = told.get(b"origin")
        if portal is None or origin is None or collector.delivery.away or told.get(b"content-encoding"):
            return False
        if not portal.has_origin(origin):
            return False
        ip = asked.address(told, request.peer, collector.trusted)
        events = plain_events(request.body, portal, asked.about(told, ip))
        if not events:
            return False
        if wait := collector.limits.retry_after(portal, ip, time.monotonic()):
            request.respond(answers.refusal(answers.too_many(wait, answers.cors(origin))))
            metrics.answered("/e", 429, began)
            return True
        cookie = renewed(events, portal, told)

        def answer(lost: int) -> None:
            if lost == 0:
                metrics.accepted(PageView.type, len(events))
                lines = _accepted(len(events), origin)
                request.answer(b"202 Accepted", lines if cookie is None else b"set-cookie: %b\r\n%b" % (cookie.encode("latin-1"), lines))
            else:
                request.respond(answers.refusal(answers.spool_full(answers.cors(origin))))
            metrics.answered("/e", 503 if lost else 202, began)

        collector.delivery.hand_over(events, partial(_told, request, answer))
        return True


def _told(request: Whole, answer: Then, lost: int) -> None:
    try:
        answer(lost)
    except Exception as error:  # noqa: BLE001 - the outermost frame of an answer
        request.respond(answers.bug(error))


@lru_cache(maxsize=1_024)
def _accepted(count: int, origin: str) -> bytes:
    """The answer to hits none of which was refused, from the headers on."""
    body = orjson.dumps({"accepted": count, "refused": []})
    headers = {"Content-Length": str(len(body)), "Content-Type": "application/json", **answers.cors(origin), **answers.UNCACHED}
    lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items())
    return f"{lines}\r\n".encode("latin-1") + body
