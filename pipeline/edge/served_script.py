"""The tracking script as a portal serves it: the built file with the portal's configuration in it (spec: edge.md, "Tracking script").

The source is `script/*.js`; `script/built` is made from it by the build of `script/package.json`, and a test holds the two together.
"""

from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import orjson

from pipeline.edge.core.portal import Portal

BUILT = Path(__file__).with_name("script") / "built"
PLACE = b"__CONFIG__"
MAX_AGE_S = 300


class Served(NamedTuple):
    """A script and its ETag."""

    body: bytes
    etag: str


def tracking(portal: Portal) -> Served:
    """The script of a portal; nothing in it is secret."""
    return _served(_built("tracking.js").replace(PLACE, _configuration(portal)))


def banner() -> Served:
    """The second file, which the script loads when somebody must be asked."""
    return _served(_built("banner.js"))


def _configuration(portal: Portal) -> bytes:
    told = {
        "portal": portal.id,
        "domains": portal.domains,
        "hosts": portal.hosts,
        "mode": portal.mode,
        "gpc": portal.honour_gpc,
        "dnt": portal.honour_dnt,
        "banner": portal.banner,
        "texts": portal.texts,
        "bindOn": portal.bind_on,
        "allForms": portal.all_forms,
    }
    return orjson.dumps(told)


@lru_cache(maxsize=8)
def _built(name: str) -> bytes:
    return (BUILT / name).read_bytes()


def _served(body: bytes) -> Served:
    return Served(body, f'"{sha256(body).hexdigest()[:32]}"')
