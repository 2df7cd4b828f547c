"""Where everything of the demonstration's site is: a pair of hosts and a portal of its own for each way to ask for consent."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import NamedTuple

from infra import ports
from pipeline.edge.core.consent import Mode

KEY_VARIABLE = "DEMO_SITE_KEY"
MAIL_HOST = "mail.localhost"
_COLLECTOR_HOST = "t.site.localhost"
_PORTAL = Template(Path(__file__).with_name("portal.toml").read_text(encoding="utf-8"))


class Way(NamedTuple):
    """One way to ask: its portal and its hosts. Cookies are each host pair's own, so an answer in one counts in no other."""

    portal: int
    mode: Mode
    label: str
    in_words: str

    @property
    def site(self) -> str:
        return f"{self.label}.site.localhost"

    @property
    def shop(self) -> str:
        return f"{self.label}.shop.localhost"


WAYS = (
    Way(1, Mode.OPT_IN, "www", "asks first: yes or no"),
    Way(2, Mode.OPT_IN_CATEGORIES, "categories", "asks first: analytics, advertisement, functionality"),
    Way(3, Mode.OPT_OUT, "opt-out", "allowed until somebody declines"),
    Way(4, Mode.NOTIFY, "notify", "allowed, and says so"),
    Way(5, Mode.OFF, "off", "allowed, and says nothing"),
)
BY_HOST: Mapping[str, Way] = MappingProxyType({host: way for way in WAYS for host in (way.site, way.shop)})
HOSTS = (*BY_HOST, MAIL_HOST, _COLLECTOR_HOST)


@dataclass(frozen=True, slots=True)
class Places:
    """The ports of the pages and of the collector."""

    pages: int
    collector: int

    def at(self, host: str, path: str = "/") -> str:
        """The address of a page."""
        return f"http://{host}:{self.pages}{path}"

    @property
    def collector_origin(self) -> str:
        return f"http://{_COLLECTOR_HOST}:{self.collector}"

    def portals(self) -> str:
        """The portals file."""
        return "\n".join(
            _PORTAL.substitute(
                portal=way.portal,
                site=way.site,
                shop=way.shop,
                mode=way.mode,
                host=self.collector_origin,
                thanks=self.at(way.shop, "/thanks"),
                key=KEY_VARIABLE,
            )
            for way in WAYS
        )


def chosen() -> Places:
    """Ports that are easy to remember, or where these are taken any that are free."""
    collector = _free(8400, ())
    return Places(_free(8401, (collector,)), collector)


def _free(wanted: int, taken: tuple[int, ...]) -> int:
    return wanted if ports.is_free(wanted) else ports.choose(taken)
