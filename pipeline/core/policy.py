"""The rules that the source documents leave open, as named switches (spec: identity.md, sessions.md, timeline.md "Policy file").

A `Policy` is frozen and complete: `parse_policy` starts from the defaults, lays a TOML text over them, then `name=value`
overrides, and refuses what it does not know by name.
"""

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, ClassVar, get_type_hints


class PolicyError(ValueError):
    """A policy that cannot be used; the message names the setting, its value and what is possible."""


class Rebind(StrEnum):
    """What happens to a cookie that is bound to one contact and then bound to another."""

    FROM_NOW = "from_now"
    KEEP_OWNER = "keep_owner"
    MOVE_ALL = "move_all"


class ReplacedEmail(StrEnum):
    """Whether an address that was replaced goes on identifying its contact."""

    RELEASE = "release"
    KEEP = "keep"


class CreateNewBindsCookie(StrEnum):
    """Whether a form with `create_new_contact` (a kiosk, a trade fair) binds the cookie it was sent with."""

    IF_UNBOUND = "if_unbound"
    NEVER = "never"
    ALWAYS = "always"


class EmailBindingScope(StrEnum):
    """What uses up an email binding."""

    CONTACT = "contact"
    CONTACT_AND_SEND = "contact_and_send"
    COOKIE = "cookie"


class IdentifyNewEmail(StrEnum):
    """What an identify call with an unknown address does on the cookie of a contact that has an address."""

    NEW_CONTACT = "new_contact"
    OVERWRITE = "overwrite"


class AnonymousContact(StrEnum):
    """What becomes of a contact without address and id when its cookie turns out to be somebody's."""

    ABSORB = "absorb"
    KEEP = "keep"


class Duration(int):
    """A length of time in milliseconds; written as an integer and `ms`, `s`, `m`, `h` or `d`."""

    _UNITS: ClassVar = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Milliseconds of a text such as `30m`. ValueError for anything else."""
        match = re.fullmatch(r"([0-9]{1,15})(ms|s|m|h|d)", text)
        if match is None:
            raise ValueError("an integer and ms, s, m, h or d, such as 30m")
        return cls(int(match[1]) * cls._UNITS[match[2]])

    def __str__(self) -> str:
        for unit in ("d", "h", "m", "s"):
            if self and self % self._UNITS[unit] == 0:
                return f"{self // self._UNITS[unit]}{unit}"
        return f"{int(self)}ms"


HALF_AN_HOUR = Duration(1_800_000)


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """When a new session starts (spec: sessions.md, rules 1 and 3)."""

    gap: Duration = HALF_AN_HOUR
    split_on_source_change: bool = False


@dataclass(frozen=True, slots=True)
class IdentityPolicy:
    """How evidence about people is weighed (spec: identity.md)."""

    rebind: Rebind = Rebind.FROM_NOW
    replaced_email: ReplacedEmail = ReplacedEmail.RELEASE
    create_new_binds_cookie: CreateNewBindsCookie = CreateNewBindsCookie.IF_UNBOUND
    email_binding_scope: EmailBindingScope = EmailBindingScope.CONTACT
    identify_new_email: IdentifyNewEmail = IdentifyNewEmail.NEW_CONTACT
    anonymous_contact: AnonymousContact = AnonymousContact.ABSORB


@dataclass(frozen=True, slots=True)
class Policy:
    """Every switch there is."""

    sessions: SessionPolicy = field(default_factory=SessionPolicy)
    identity: IdentityPolicy = field(default_factory=IdentityPolicy)

    def as_dict(self) -> dict[str, dict[str, object]]:
        """The policy as plain values, in the form of the policy file."""
        return {
            section: {name: _plain(value) for name, value in dataclasses.asdict(getattr(self, section)).items()}
            for section in ("sessions", "identity")
        }


def parse_policy(text: str = "", overrides: Iterable[str] = (), source: str = "the policy file") -> Policy:
    """The policy of a TOML `text` with `section.name=value` overrides on top. PolicyError names what is wrong and where."""
    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{source} is not valid TOML: {error}") from None
    sections = {"sessions": SessionPolicy(), "identity": IdentityPolicy()}
    for section, table in tables.items():
        if not isinstance(table, Mapping):
            raise PolicyError(f"{source}: {section} must be a table, one of {_names(f'[{name}]' for name in sections)}")
        for name, value in table.items():
            _set(sections, section, name, value, source)
    for override in overrides:
        path, equals, value = override.partition("=")
        section, dot, name = path.strip().partition(".")
        if not equals or not dot:
            raise PolicyError(f"--set {override}: expected section.name=value, such as identity.rebind=move_all")
        _set(sections, section, name, value.strip(), f"--set {override}")
    return Policy(**sections)  # type: ignore[arg-type]  # the keys are the two sections above


def _set(sections: dict[str, Any], section: str, name: str, value: object, source: str) -> None:
    if section not in sections:
        raise PolicyError(f"{source}: unknown policy section {section!r}{_meant(section, sections)}; there are {_names(sections)}")
    kinds = get_type_hints(type(sections[section]))
    if name not in kinds:
        raise PolicyError(f"{source}: unknown policy {section}.{name}{_meant(name, kinds)}; {section} has {_names(kinds)}")
    sections[section] = dataclasses.replace(sections[section], **{name: _value(kinds[name], value, f"{source}: {section}.{name}")})


def _value(kind: Any, value: object, where: str) -> object:
    if kind is bool:
        switch = {"true": True, "false": False}.get(value) if isinstance(value, str) else value
        if not isinstance(switch, bool):
            raise PolicyError(f"{where} = {value!r}: expected true or false")
        return switch
    if kind is Duration:
        try:
            return Duration.parse(value if isinstance(value, str) else "")
        except ValueError as error:
            raise PolicyError(f"{where} = {value!r}: expected {error}") from None
    try:
        return kind(value)
    except ValueError:
        raise PolicyError(f"{where} = {value!r}: expected one of {_names(kind)}") from None


def _plain(value: object) -> object:
    return value if isinstance(value, bool) else str(value)


def _names(names: Iterable[str]) -> str:
    return ", ".join(str(name) for name in names)


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""
