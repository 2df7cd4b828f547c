"""A day of real web traffic as page views (README.md beside this file has its source and credit)."""

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.ids import uuid5

LOG = Path(__file__).with_name("nasa_19950801.tsv.gz")
SITE = "https://www.ksc.nasa.gov"
PORTAL = 1
_ANSWERED = {"200", "304"}
_PAGES = {"html", "htm", "txt"}


class Request(NamedTuple):
    """One row of the log."""

    host: str
    logname: str
    time: str
    method: str
    path: str
    response: str
    size: str
    referrer: str
    user_agent: str


def page_views() -> Iterator[dict[str, Any]]:
    """The page views of the log as JSON objects, in its order. A host stands for a browser."""
    with gzip.open(LOG, "rt", encoding="latin-1", newline="\n") as rows:
        next(rows)
        for row in rows:
            request = Request(*row.rstrip("\n").split("\t"))
            if is_page(request):
                yield _page_view(row, request)


def is_page(request: Request) -> bool:
    """Whether somebody looked at a page: it was fetched, and is a document or a directory, not an image or a script."""
    if request.method != "GET" or request.response not in _ANSWERED or request.path.startswith(("/cgi-bin/", "/htbin/")):
        return False
    _, dot, ending = request.path.partition("?")[0].rpartition("/")[2].rpartition(".")
    return not dot or ending.lower() in _PAGES


def utk(host: str) -> str:
    """The cookie that stands for a host."""
    return hashlib.md5(host.encode("latin-1"), usedforsecurity=False).hexdigest()


def _page_view(row: str, request: Request) -> dict[str, Any]:
    return {
        "type": "page_view",
        "event_id": uuid5(f"nasa|{row.rstrip()}"),
        "portal_id": PORTAL,
        "occurred_at": int(request.time) * 1000,
        "utk": utk(request.host),
        "url": SITE + request.path,
        "properties": {"host": request.host, "response": int(request.response)},
    }
