"""The pages: plain HTML from `pages/`, each with the script tag that any site would have. Loopback only."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

from infra.demo_site.mails import Mails
from infra.demo_site.places import BY_HOST, MAIL_HOST, WAYS, Places, Way
from infra.pages import Pages, served

_PAGES = Path(__file__).with_name("pages")
_LONGEST_FORM = 1 << 16
_OF_SITE = {
    "/": ("home", "Kettle & Leaf"),
    "/blends": ("blends", "Blends"),
    "/contact": ("contact", "Write to us"),
    "/written": ("written", "We have your letter"),
}
_OF_SHOP = {"/": ("shop", "The shop"), "/order": ("order", "Your order"), "/thanks": ("thanks", "Thank you")}


@cache
def _template(name: str) -> Template:
    return Template((_PAGES / f"{name}.html").read_text(encoding="utf-8"))


def _filled(name: str, values: Mapping[str, str], **html: str) -> str:
    """The template with these values, which become text whatever is in them, and with parts that are HTML already."""
    return _template(name).substitute({key: escape(value) for key, value in values.items()}, **html)


def _page(places: Places, way: Way, host: str, path: str) -> str | None:
    """A page of a site or of its shop; None if there is none."""
    name, title = (_OF_SITE if host == way.site else _OF_SHOP).get(path, (None, ""))
    if name is None:
        return None
    values = {
        "title": title,
        "site": places.at(way.site, ""),
        "shop": places.at(way.shop, ""),
        "mail": places.at(MAIL_HOST),
        "collector": places.collector_origin,
        "portal": str(way.portal),
        "mode": way.mode.value,
        "mode_in_words": way.in_words,
    }
    modes = "\n".join(_filled("mode", {"url": places.at(each.site), "mode": each.mode.value}) for each in WAYS if each is not way)
    return _filled("layout", values, modes=modes, body=_filled(name, values))


def _inbox(mails: Mails, asked: str) -> str:
    recipient, letters = mails.of(asked)
    shown = "\n".join(_filled("mail", letter._asdict()) for letter in letters)
    return _filled("inbox", {"recipient": recipient}, mails=shown)


class _Handler(Pages):
    places: ClassVar[Places]
    mails: ClassVar[Mails]

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        host = self.headers.get("Host", "").partition(":")[0].lower()
        way = BY_HOST.get(host)
        if host == MAIL_HOST and asked.path == "/":
            self._html(_inbox(self.mails, parse_qs(asked.query).get("to", [""])[0]))
        elif asked.path == "/style.css":
            self.answer((_PAGES / "style.css").read_bytes(), "text/css; charset=utf-8")
        elif way is not None and (page := _page(self.places, way, host, asked.path)) is not None:
            self._html(page)
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        """The form of the site's own: what it says is nothing to these pages."""
        self.rfile.read(min(int(self.headers.get("Content-Length", 0)), _LONGEST_FORM))
        self.do_GET()

    def _html(self, text: str) -> None:
        self.answer(text.encode(), "text/html; charset=utf-8")


@contextmanager
def pages(places: Places, mails: Mails) -> Iterator[None]:
    """The pages are served, in a thread, for as long as the block runs."""
    with served(type("Handler", (_Handler,), {"places": places, "mails": mails}), places.pages):
        yield
