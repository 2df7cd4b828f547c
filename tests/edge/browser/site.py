"""A small site for the browser: `/{portal}/{visit}/{page}`, every page with the tracking script of its portal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from infra.pages import Pages, served

PAGES = {
    "plain": "<h1>A page</h1><p>Text.</p><a id=next href=second>Next</a>",
    "second": "<h1>Another page</h1>",
    "form": (
        "<form data-track-form=contact action=second><input name=email type=email><input name=pin type=password value=canary>"
        "<input name=card value='4111 1111 1111 1111'><input name=size value=4><button id=send>Send</button></form>"
    ),
    "posted": (
        "<form method=post action={collector}/forms/{portal}/posted><input name=email type=email><button id=send>Send</button></form>"
    ),
    "held": '<script type="text/plain" data-consent="advertisement">document.title = "advertised"</script>',
    "scrolled": "<div style='height: 5000px'>Long</div>",
}
_PAGE = "<!doctype html><html lang=en><meta charset=utf-8><title>{page}</title>{script}<body>{body}"
_SCRIPT = '<script async src="{collector}/t/{portal}.js"></script>'
CSP = "default-src 'none'; script-src {collector}; connect-src {collector}; form-action *"


class _Handler(Pages):
    collector: ClassVar[str] = ""

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        portal, _, page = parts if len(parts) == 3 else ("0", "", "")
        name = page.removeprefix("strict-")
        if name not in PAGES:
            self.send_error(404)
            return
        filled = {"collector": self.collector, "portal": portal}
        text = _PAGE.format(
            page=page, script=_SCRIPT.format(**filled), body=PAGES[name].replace("{collector}", self.collector).replace("{portal}", portal)
        )
        policy = {"Content-Security-Policy": CSP.format(**filled)} if page.startswith("strict-") else {}
        self.answer(text.encode(), "text/html; charset=utf-8", headers=policy)


@contextmanager
def site(collector: str) -> Iterator[int]:
    """The port of a site whose pages take the script from this origin."""
    with served(type("Handler", (_Handler,), {"collector": collector})) as port:
        yield port


class _Broken(Pages):
    """What a proxy says whose collector is away; other than a host that is not there, it lets the page read that."""

    def do_GET(self) -> None:
        self._unavailable()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._unavailable()

    def _unavailable(self) -> None:
        readable = {"Access-Control-Allow-Origin": self.headers.get("Origin", "*"), "Access-Control-Allow-Credentials": "true"}
        self.answer(b"", "text/plain", status=503, headers=readable)


@contextmanager
def broken() -> Iterator[int]:
    """The port of a collector's host that answers 503 to everything."""
    with served(_Broken) as port:
        yield port
