"""`portals.toml` -> portals (spec: edge.md, "Portals").

A wrong file is a UsageError that names the portal, the key and what is expected.
"""

import os
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core import normalise
from pipeline.core.events import PortalId
from pipeline.edge.core.addresses import IpPolicy
from pipeline.edge.core.consent import Mode
from pipeline.edge.core.forms import FORM_ID
from pipeline.edge.core.portal import BindOn, Form, IdentifyMode, Portal
from pipeline.edge.core.sealing import KEY_BYTES
from pipeline.errors import UsageError

SHORTEST_SERVER_KEY = 16

Domain = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*(\.[a-z0-9-]+)+$|^localhost$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/?#\\@]+[^\s\\]*$")]
Origin = Annotated[str, Field(pattern=r"^https?://[^\s/?#\\@]+$")]
Network = Annotated[str, Field(pattern=r"^[0-9a-fA-F.:]+(/[0-9]+)?$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Consent(_Section):
    mode: Mode = Mode.OPT_IN
    version: Annotated[str, Field(min_length=1, max_length=100)] = "1"
    banner: bool = True
    texts: dict[str, dict[str, str]] = {}
    honour_gpc: bool = True
    honour_dnt: bool = True


class _Form(_Section):
    required: tuple[str, ...] = ()
    thank_you: Url | None = None
    processing_consent: bool = False


class _Limits(_Section):
    requests_per_minute: Annotated[int, Field(ge=1)] = 60_000
    requests_per_minute_and_ip: Annotated[int, Field(ge=1)] = 600


class _Portal(_Section):
    """One [[portals]] of the file."""

    id: Annotated[int, Field(ge=1, le=normalise.MAX_PORTAL, strict=True)]
    domains: Annotated[tuple[Domain, ...], Field(min_length=1)]
    hosts: tuple[Origin, ...] = ()
    consent: _Consent = _Consent()
    ip: IpPolicy = IpPolicy.SHORTENED
    exclude_ips: tuple[Network, ...] = ()
    identify: IdentifyMode = IdentifyMode.OPEN
    bind_on: BindOn = BindOn.TOUCH
    all_forms: bool = False
    forms: dict[str, _Form] = {}
    thank_you: Url | None = None
    limits: _Limits = _Limits()
    keys: tuple[str, ...] = ()
    server_key: str | None = None


class _File(_Section):
    portals: Annotated[tuple[_Portal, ...], Field(min_length=1)]


def load(path: Path) -> Mapping[PortalId, Portal]:
    """The portals by id."""
    try:
        stated = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"portals file {path} (edge.portals_file) does not exist: create it, see the README, or name another one"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"portals file {path} (edge.portals_file) cannot be read: {error}") from None
    try:
        file = _File.model_validate(stated)
    except ValidationError as error:
        raise UsageError("\n".join(_mistake(path, mistake) for mistake in error.errors())) from None
    portals = [_portal(path, portal) for portal in file.portals]
    found = {portal.id: portal for portal in portals}
    if len(found) != len(portals):
        raise UsageError(f"{path}: two portals have one id; give each its own")
    return found


def _mistake(path: Path, mistake: Any) -> str:
    where = ".".join(str(part) for part in mistake["loc"])
    shown = "" if {"keys", "server_key"} & set(mistake["loc"]) or isinstance(mistake["input"], dict | list) else f" = {mistake['input']!r}"
    return f"{path}: {where}{shown}: {mistake['msg'][:1].lower() + mistake['msg'][1:]}"


def _portal(path: Path, stated: _Portal) -> Portal:
    where = f"{path}: portal {stated.id}"
    for name in stated.forms:
        if not FORM_ID.fullmatch(name):
            raise UsageError(f"{where}: forms.{name}: expected letters, digits, dots, dashes and underscores")
    return Portal(
        id=PortalId(stated.id),
        domains=stated.domains,
        hosts=stated.hosts,
        mode=stated.consent.mode,
        consent_version=stated.consent.version,
        texts=stated.consent.texts,
        banner=stated.consent.banner,
        honour_gpc=stated.consent.honour_gpc,
        honour_dnt=stated.consent.honour_dnt,
        ip=stated.ip,
        exclude_ips=tuple(_network(where, text) for text in stated.exclude_ips),
        identify=stated.identify,
        bind_on=stated.bind_on,
        all_forms=stated.all_forms,
        forms={name: Form(form.required, form.thank_you, form.processing_consent) for name, form in stated.forms.items()},
        thank_you=stated.thank_you,
        requests_per_minute=stated.limits.requests_per_minute,
        requests_per_minute_and_ip=stated.limits.requests_per_minute_and_ip,
        keys=tuple(_sealing_key(where, reference) for reference in stated.keys),
        server_key=_server_key(where, stated),
    )


def _network(where: str, text: str) -> Any:
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise UsageError(f"{where}: exclude_ips: {error}") from None


def _sealing_key(where: str, reference: str) -> bytes:
    try:
        key = bytes.fromhex(_secret(where, "keys", reference))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError(
            f"{where}: keys: {reference}: expected {KEY_BYTES} bytes as hex digits; make one with `openssl rand -hex {KEY_BYTES}`"
        )
    return key


def _server_key(where: str, stated: _Portal) -> bytes | None:
    if stated.server_key is None:
        if stated.identify is IdentifyMode.SIGNED:
            raise UsageError(f'{where}: identify = "signed" needs a server_key, with which the site signs')
        return None
    key = _secret(where, "server_key", stated.server_key)
    if len(key) < SHORTEST_SERVER_KEY:
        raise UsageError(f"{where}: server_key: {stated.server_key}: expected at least {SHORTEST_SERVER_KEY} characters")
    return key.encode()


def _secret(where: str, name: str, reference: str) -> str:
    """The secret that `env:NAME` or `file:PATH` refers to; secrets themselves do not stand in the file."""
    kind, _, target = reference.partition(":")
    if kind == "env" and target in os.environ:
        return os.environ[target].strip()
    if kind == "file":
        try:
            return Path(target).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"{where}: {name}: the file {target} cannot be read") from None
    if kind == "env":
        raise UsageError(f"{where}: {name}: the environment has no {target}")
    raise UsageError(f"{where}: {name}: expected env:NAME or file:PATH, not the secret itself")
