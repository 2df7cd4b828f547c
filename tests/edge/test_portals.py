"""The portals file, tracked links for mailers, rate limits and robots: the small parts around the collector."""

from pathlib import Path

import pytest

from pipeline.core.events import Millis, PortalId
from pipeline.edge import bots, portals
from pipeline.edge.clicks import Clicks
from pipeline.edge.core.links import opened_link
from pipeline.edge.core.portal import Portal
from pipeline.edge.limits import Limits
from pipeline.edge.linking import tracked_link
from pipeline.errors import UsageError
from tests.builders import MINUTE, START, event_id, utk
from tests.cli.conftest import Run, no_settings, run

__all__ = ["no_settings", "run"]

KEY = "ab" * 32
GOOD = '[[portals]]\nid = 1\ndomains = ["site.example"]\n'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GOOD_KEY", KEY)
    monkeypatch.setenv("SHORT_KEY", "ab")
    return tmp_path / "portals.toml"


def test_a_portal(file: Path) -> None:
    """What is not said is careful: visitors are asked, addresses shortened, clicks bind on touch."""
    file.write_text(GOOD + 'keys = ["env:GOOD_KEY"]\n')
    portal = portals.load(file)[PortalId(1)]
    assert (portal.mode, portal.ip, portal.bind_on, portal.identify) == ("opt_in", "shortened", "touch", "open")
    assert portal.keys == (bytes.fromhex(KEY),)
    assert KEY not in repr(portal)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "portals: field required"),
        ("[[portals]]\nid = 1\n", "portals.0.domains: field required"),
        ('[[portals]]\nid = 0\ndomains = ["a.b"]\n', "portals.0.id = 0: input should be greater than"),
        ('[[portals]]\nid = "1"\ndomains = ["a.b"]\n', "portals.0.id = '1': input should be a valid integer"),
        ('[[portals]]\nid = 1\ndomains = ["com"]\n', "portals.0.domains.0 = 'com'"),
        ('[[portals]]\nid = 1\ndomains = ["https://a.b"]\n', "portals.0.domains.0 = 'https://a.b'"),
        (GOOD + GOOD, "two portals have one id"),
        (GOOD + "colour = 1\n", "portals.0.colour = 1: extra inputs are not permitted"),
        (GOOD + 'consent = { mode = "maybe" }\n', "portals.0.consent.mode = 'maybe'"),
        (GOOD + 'hosts = ["https://a.b/path"]\n', "portals.0.hosts.0"),
        (GOOD + 'exclude_ips = ["1.2.3.400"]\n', "portal 1: exclude_ips"),
        (GOOD + 'thank_you = "javascript:alert(1)"\n', "portals.0.thank_you"),
        (GOOD + f'keys = ["{KEY}"]\n', "expected env:NAME or file:PATH, not the secret itself"),
        (GOOD + 'keys = ["env:SHORT_KEY"]\n', "expected 32 bytes as hex digits"),
        (GOOD + 'keys = ["env:NO_SUCH_KEY"]\n', "the environment has no NO_SUCH_KEY"),
        (GOOD + 'keys = ["file:/no/such/file"]\n', "the file /no/such/file cannot be read"),
        (GOOD + 'identify = "signed"\n', "needs a server_key"),
        (GOOD + 'server_key = "env:SHORT_KEY"\n', "expected at least 16 characters"),
        (GOOD + '[portals.forms."a b"]\nrequired = []\n', "forms.a b: expected letters"),
        ("portals = 1\n", "portals"),
        ("[[portals", "cannot be read"),
    ],
)
def test_wrong_files(file: Path, text: str, message: str) -> None:
    """A wrong file is one message with the portal and the key, never a secret."""
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        portals.load(file)
    assert message in str(caught.value)
    assert KEY not in str(caught.value)


def test_missing_file_of_the_command(run: Run) -> None:
    """The collector says at once that it has no portals, and where it looked."""
    ended = run("edge")
    assert ended.code == 2
    assert "portals file portals.toml (edge.portals_file) does not exist" in ended.err
    assert "Traceback" not in ended.err


def test_link_command(run: Run, file: Path) -> None:
    """`link` prints an address that holds what the mailer knew; a portal that is not there is named."""
    file.write_text(GOOD + 'hosts = ["https://t.site.example"]\nkeys = ["env:GOOD_KEY"]\n')
    command = ["link", "--recipient", "Ann@X.io", "--send", "may", "--url", "https://www.site.example/offer"]
    printed = run(*command, "--portal", "1", PIPELINE_EDGE__PORTALS_FILE=str(file))
    assert printed.code == 0
    address, _, token = printed.out.strip().rpartition("/")
    assert address == "https://t.site.example/l"
    link = opened_link([bytes.fromhex(KEY)], PortalId(1), token)
    assert link is not None
    assert (link.recipient, link.send_id, link.url) == ("ann@x.io", "may", "https://www.site.example/offer")
    missing = run(*command, "--portal", "2", PIPELINE_EDGE__PORTALS_FILE=str(file))
    assert missing.code == 2
    assert "portal 2 is not in" in missing.err


@pytest.mark.parametrize(
    ("portal", "recipient", "url", "message"),
    [
        (Portal(PortalId(1), ("a.b",)), "ann@x.io", "https://a.b/", "has no keys"),
        (Portal(PortalId(1), ("a.b",), keys=(b"k" * 32,)), "ann@x.io", "https://a.b/", "has no hosts"),
        (Portal(PortalId(1), ("a.b",), ("https://t.a.b",), keys=(b"k" * 32,)), "ann", "https://a.b/", "expected an email address"),
        (
            Portal(PortalId(1), ("a.b",), ("https://t.a.b",), keys=(b"k" * 32,)),
            "ann@x.io",
            "ftp://a.b/",
            "expected an http or https address",
        ),
        (Portal(PortalId(1), ("a.b",), ("https://t.a.b",), keys=(b"k" * 32,)), "ann@x.io", "https://a.b/" + "a" * 2_000, "at most 2000"),
    ],
)
def test_links_that_cannot_be(portal: Portal, recipient: str, url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tracked_link(portal, recipient, "may", url)


def test_limits_per_portal_and_address() -> None:
    """Each address and each portal has its own count, and every minute a new one; an IPv6 customer is one address."""
    limits = Limits()
    portal = Portal(PortalId(1), ("a.b",), requests_per_minute=4, requests_per_minute_and_ip=2)
    assert [limits.retry_after(portal, "192.0.2.1", 0.0) for _ in range(3)] == [0, 0, 60]
    assert [limits.retry_after(portal, "2001:db8::1", 10.0), limits.retry_after(portal, "2001:db8::2", 10.0)] == [0, 0]
    assert limits.retry_after(portal, "192.0.2.3", 30.0) == 30
    assert limits.retry_after(Portal(PortalId(2), ("a.b",)), "192.0.2.1", 30.0) == 0
    assert limits.retry_after(portal, "192.0.2.1", 60.0) == 0


def test_who_is_refused_takes_nothing_from_the_others() -> None:
    """One address that asks without end does not use up what the portal may be asked by all."""
    limits = Limits()
    portal = Portal(PortalId(1), ("a.b",), requests_per_minute=10, requests_per_minute_and_ip=2)
    assert [limits.retry_after(portal, "192.0.2.1", 0.0) for _ in range(100)].count(0) == 2
    assert limits.retry_after(portal, "192.0.2.2", 0.0) == 0


@pytest.mark.parametrize(
    ("user_agent", "why"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36", None),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Version/17.0 Mobile/15E148 Safari/604.1", None),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/150.0.0.0 Safari/537.36", "headless"),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "crawler"),
        ("curl/8.5.0", "crawler"),
        ("python-requests/2.32", "crawler"),
        ("Go-http-client/2.0", "crawler"),
        (None, "no_user_agent"),
    ],
)
def test_robots(user_agent: str | None, why: str | None) -> None:
    assert bots.why(user_agent) == why


def test_first_return_wins_for_all_processes(tmp_path: Path) -> None:
    """Two processes, one database: whoever comes first has the click, as often as it comes."""
    here, there = Clicks(tmp_path / "clicks.sqlite"), Clicks(tmp_path / "clicks.sqlite")
    assert here.is_first(event_id(1), utk("a"), START)
    assert not there.is_first(event_id(1), utk("b"), START)
    assert there.is_first(event_id(1), utk("a"), Millis(START + MINUTE))
    assert there.is_first(event_id(2), utk("b"), START)
