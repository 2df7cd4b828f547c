"""`edge check` on pages as they may be: right, without the script, of another portal, under a policy that forbids it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.pages import Pages, served
from tests.cli.conftest import Run, no_settings, run

__all__ = ["no_settings", "run"]

Serve = Callable[[str, str], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves one page, and a script at /t/1.js."""
    pages: list[tuple[str, str]] = []

    class Handler(Pages):
        def do_GET(self) -> None:
            html, policy = pages[-1]
            if self.path == "/t/1.js":
                self.answer(b"1", "text/javascript")
            else:
                self.answer(html.encode(), "text/html", headers={"Content-Security-Policy": policy} if policy else None)

    with served(Handler) as port:

        def page(html: str, policy: str = "") -> str:
            pages.append((html, policy))
            return f"http://localhost:{port}/"

        yield page


RIGHT = "<script async src=/t/1.js></script>"


@pytest.mark.parametrize(
    ("html", "policy", "code", "said"),
    [
        (RIGHT, "", 0, "✓ it is loaded async"),
        (RIGHT, "default-src *", 0, "✓ Content-Security-Policy: connect-src allows"),
        ("<p>", "", 1, "✗ there is no script of ours"),
        ("<script src=/t/1.js></script>", "", 1, "✗ it holds up the page"),
        (RIGHT * 2, "", 1, "✗ the script is there 2 times"),
        ("<script async src=/t/2.js></script>", "", 1, "is of a portal that is not in the portals file"),
        (RIGHT, "default-src 'self'; script-src 'none'", 1, "✗ Content-Security-Policy: script-src does not name"),
    ],
)
def test_pages(run: Run, serve: Serve, tmp_path: Path, html: str, policy: str, code: int, said: str) -> None:
    """Each mistake has its line, and exit code 1."""
    (tmp_path / "portals.toml").write_text('[[portals]]\nid = 1\ndomains = ["localhost"]\n')
    ended = run("edge", "check", serve(html, policy))
    assert said in ended.out
    assert ended.code == code


def test_a_page_elsewhere(run: Run, serve: Serve, tmp_path: Path) -> None:
    """A page that is on none of the portal's domains would send in vain."""
    (tmp_path / "portals.toml").write_text('[[portals]]\nid = 1\ndomains = ["site.example"]\n')
    ended = run("edge", "check", serve(RIGHT, ""))
    assert ended.code == 1
    assert "✗ the page is not on the domains of portal 1: site.example" in ended.out


def test_no_page(run: Run, tmp_path: Path) -> None:
    (tmp_path / "portals.toml").write_text('[[portals]]\nid = 1\ndomains = ["site.example"]\n')
    ended = run("edge", "check", "http://127.0.0.1:1/")
    assert ended.code == 1
    assert "http://127.0.0.1:1/: cannot be had" in ended.err
    assert "Traceback" not in ended.err
