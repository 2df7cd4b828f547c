"""The small decisions of the edge, against the table that the script's tests read too."""

import ast
import json
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.edge.core
from pipeline.core.events import Millis
from pipeline.edge.core import addresses, clock, cookies, urls
from pipeline.edge.core.consent import Mode, consent
from pipeline.edge.core.hits import Dropped, event_of
from tests.builders import DAY, START
from tests.core.test_purity import ALLOWED, IMPURE_CALLS
from tests.edge.deciding import PERSON, SITE, view

CASES = json.loads(Path(__file__).with_name("cases.json").read_text(encoding="utf-8"))


def cases(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", CASES[name], ids=lambda case: str(next(iter(case.values()))))


def test_core_is_pure() -> None:
    """The decisions see no network, clock, disk or chance; sealing gets its nonce."""
    allowed = ALLOWED | {"cryptography", "ipaddress", "hmac", "base64", "binascii", "enum"}
    for module in Path(pipeline.edge.core.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed or name.startswith(("pipeline.core", "pipeline.edge.core")), (module.name, name)
            if isinstance(node, ast.Call):
                assert getattr(node.func, "attr", getattr(node.func, "id", "")) not in IMPURE_CALLS


@cases("cookie_domain")
def test_cookie_domain(case: dict[str, Any]) -> None:
    """The longest configured domain that matches the host."""
    assert cookies.cookie_domain(case["host"], case["domains"]) == case["domain"]


@cases("hstc")
def test_hstc(case: dict[str, Any]) -> None:
    """Exactly six parts, or it is no hint."""
    assert (cookies.hstc(case["cookie"]) is not None) == case["valid"]


@cases("hssc")
def test_hssc(case: dict[str, Any]) -> None:
    """Exactly three parts, or it is no hint."""
    assert (cookies.hssc(case["cookie"]) is not None) == case["valid"]


@given(st.from_regex(urls._PLAIN_HOST, fullmatch=True))
def test_the_host_of_a_plain_address(url: str) -> None:
    """Read the fast way, it is the one that any way reads."""
    assert urls.host(url) == urls.unusual_host(url)


@cases("consent")
def test_consent(case: dict[str, Any]) -> None:
    """The portal's mode decides what silence means; an explicit answer outranks the browser's signal."""
    assert list(consent(Mode(case["mode"]), case["claim"], objects=case["objects"])) == case["is"]


@cases("cleaned")
def test_cleaned(case: dict[str, Any]) -> None:
    """Addresses lose what may be personal or secret, and nothing else."""
    assert urls.cleaned(case["url"]) == case["is"]


@given(st.text(alphabet="https:/?#&=@%.abc240_Token\\ ", max_size=60))
def test_cleaning_is_idempotent_and_lets_no_address_through(text: str) -> None:
    cleaned = urls.cleaned("https://x.example/" + text)
    assert urls.cleaned(cleaned) == cleaned
    assert "#" not in cleaned
    query = cleaned.partition("?")[2]
    assert not any(urls.looks_like_email(part) for part in query.split("&"))


@pytest.mark.parametrize(
    ("given", "reduced"),
    [
        ("https://www.site.example/a/b?utm_source=x&c=d", "https://www.site.example/a/b?utm_source=x"),
        ("https://www.site.example/leave/ann@x.io/now", "https://www.site.example/leave/-/now"),
        ("https://www.site.example/?utm_term=ann%40x.io", "https://www.site.example/"),
    ],
)
def test_reduced(given: str, reduced: str) -> None:
    """After a no: the path and utm_*."""
    assert urls.reduced(given) == reduced


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "https://site.example.evil.example/",
        "https://evil.example\\@www.site.example/",
        "https://evilsite.example/",
        "https://www.site.example@evil.example/",
        "//www.site.example/",
        "javascript://www.site.example/%0aalert(1)",
        "https://evil.example/?https://www.site.example/",
        "https://evil.example#@www.site.example/",
        "https://www.site.example:notaport/",
        "",
        None,
        7,
    ],
)
def test_foreign_pages(url: object) -> None:
    """A page elsewhere publishes nothing under the portal's name."""
    assert event_of(view(url=url), SITE, PERSON) is Dropped.FOREIGN_URL


@pytest.mark.parametrize(
    ("occurred", "sent", "received", "expected"),
    [
        (START, START, START, (START, None)),
        (START - 5_000, START, START + 100, (START - 4_900, None)),
        (START + 400 * DAY, START + 400 * DAY + 50, START, (START - 50, None)),
        (START + 2 * DAY, None, START, (START, "out_of_range")),
        (START - 31 * DAY, None, START, (START - 31 * DAY, None)),
        (START - 31 * DAY - 1, None, START, (START, "out_of_range")),
        (None, START, START, (START, "missing")),
        ("yesterday", START, START, (START, "out_of_range")),
    ],
)
def test_clock(occurred: object, sent: object, received: Millis, expected: object) -> None:
    """The browser's clock is corrected by what it says at the time of sending, and not believed beyond that."""
    assert clock.corrected(occurred, sent, received) == expected


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("2001:db8:1:2:3::4", "2001:db8:1::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("no address", None),
        (None, None),
    ],
)
def test_shortened(given: str | None, kept: str | None) -> None:
    """The last octet goes; of IPv6, all but 48 bits."""
    assert addresses.kept(given, addresses.IpPolicy.SHORTENED) == kept


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], "10.0.0.1"),
        (["198.51.100.1"], "198.51.100.1"),
        (["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
        (["1.1.1.1", "10.0.0.2"], "1.1.1.1"),
        (["rubbish"], "10.0.0.1"),
    ],
)
def test_client_behind_proxies(forwarded: list[str], client: str) -> None:
    """The last hop that is not a proxy of ours is who asked; what that one says about others is not believed."""
    trusted = [ip_network("10.0.0.0/8")]
    assert addresses.client("10.0.0.1", forwarded, trusted) == client


def test_nobody_is_believed_without_trusted_proxies() -> None:
    assert addresses.client("192.0.2.1", ["1.1.1.1"], []) == "192.0.2.1"
