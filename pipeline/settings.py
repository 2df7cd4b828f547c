"""Settings: where the servers are and how the workers behave. What events mean is the policy's (core/policy.py).

Sources, the first that names a setting wins: arguments of `Settings(...)`, environment variables
(`PIPELINE_KAFKA__BOOTSTRAP_SERVERS` is `kafka.bootstrap_servers`), a TOML file (`pipeline.toml`, or the one that
`PIPELINE_CONFIG` names), the embedded servers that run in `data_dir`, the defaults below.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from pipeline import settings_sources
from pipeline.core import policy
from pipeline.errors import UsageError
from pipeline.principals import PRINCIPALS


def _milliseconds(duration: Any) -> Any:
    if not isinstance(duration, str):
        return duration
    return int(duration) if duration.isascii() and duration.isdigit() else int(policy.Duration.parse(duration))


Duration = Annotated[int, BeforeValidator(_milliseconds)]
"""Milliseconds; written as in the policy file ("7d"), or as an integer."""


def _dotted(options: Any) -> Any:
    """Option names as librdkafka writes them: an environment variable can only say SASL_PASSWORD for sasl.password.

    A secret may stand in a file: `sasl.password.file` names it.
    """
    if not isinstance(options, dict):
        return options
    dotted = {str(name).lower().replace("_", "."): str(value) for name, value in options.items()}
    for name in [name for name in dotted if name.endswith(".file") and settings_sources.is_secret(name)]:
        secret = name.removesuffix(".file")
        _refuse_both(dotted.get(secret), secret, name)
        dotted[secret] = settings_sources.secret_in(name, dotted.pop(name))
    return dotted


def _of_principals(principals: Any) -> Any:
    """Options by principal: an environment variable can only say DEAD_LETTERS."""
    if not isinstance(principals, dict):
        return principals
    named = {str(name).lower().replace("_", "-"): options for name, options in principals.items()}
    if strangers := sorted(named.keys() - set(PRINCIPALS)):
        raise ValueError(f"{', '.join(strangers)} is no principal; principals are {', '.join(PRINCIPALS)}")
    return named


def _refuse_both(secret: object, name: str, file_name: str) -> None:
    if secret:
        raise ValueError(f"{name} and {file_name} are both given: keep one")


Options = Annotated[dict[str, str], BeforeValidator(_dotted)]
"""Client options of librdkafka, which refuses those that it does not know."""

CLICKHOUSE_OPTIONS = (
    "alt_hosts",
    "ca_certs",
    "certfile",
    "check_hostname",
    "ciphers",
    "client_name",
    "client_revision",
    "compress_block_size",
    "compression",
    "connect_timeout",
    "keyfile",
    "keypass",
    "round_robin",
    "send_receive_timeout",
    "server_hostname",
    "ssl_version",
    "sync_request_timeout",
    "tcp_keepalive",
    "verify",
)
"""Arguments of clickhouse-driver that are no settings of ours, nor change what its answers look like."""


def _known(options: dict[str, str]) -> dict[str, str]:
    """The driver would take any other name for a setting of queries, which ClickHouse does not look at if it does not know it."""
    if strangers := sorted(options.keys() - set(CLICKHOUSE_OPTIONS)):
        close = settings_sources.hint(strangers[0], CLICKHOUSE_OPTIONS) or "."
        raise ValueError(f"unknown option {strangers[0]}{close} Options are {', '.join(CLICKHOUSE_OPTIONS)}")
    return options


class Section(BaseModel):
    """A secret `x` may stand in a file that `x_file` names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, given: Any) -> Any:
        named = {name: given.get(f"{name}_file") for name in secrets_of(cls)} if isinstance(given, dict) else {}
        for name, path in named.items():
            if path:
                secret = given.get(name)
                _refuse_both(secret.get_secret_value() if isinstance(secret, SecretStr) else secret, name, f"{name}_file")
                given = {**given, name: settings_sources.secret_in(f"{name}_file", path)}
        return given


def secrets_of(section: type[BaseModel]) -> list[str]:
    """Names of the section's settings that are secrets."""
    return [name for name, field in section.model_fields.items() if field.annotation is SecretStr]


class Kafka(Section):
    bootstrap_servers: Annotated[str, Field(min_length=1, description="Brokers to ask first: host:port, separated by commas.")] = (
        "127.0.0.1:9092"
    )
    topic_prefix: Annotated[
        str, Field(pattern=r"^[a-zA-Z0-9._-]*$", description="Put before the names of topics, consumer groups and transactions.")
    ] = ""
    replication_factor: Annotated[int, Field(ge=1, description="Copies of each partition, in topics that we create.")] = 1
    options: Annotated[
        Options,
        Field(repr=False, description="Client options under librdkafka's names (security.protocol, sasl.*, ssl.*), passed through."),
    ] = {}
    principals: Annotated[
        dict[str, Options],
        BeforeValidator(_of_principals),
        Field(repr=False, description="Each part's own client options, over the above: its user and password."),
    ] = {}


class ClickHouse(Section):
    host: Annotated[str, Field(min_length=1, description="Server of the native protocol.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="Port of the native protocol.")] = 9000
    database: Annotated[
        str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Database of the tables and views; made if it is missing.")
    ] = "timelines"
    user: Annotated[str, Field(description="User of the pipeline, who makes tables and writes.")] = "default"
    password: Annotated[SecretStr, Field(description="Password of that user.")] = SecretStr("")
    password_file: Annotated[Path | None, Field(description="File with that password, instead of it.")] = None
    secure: Annotated[bool, Field(description="Whether to speak TLS.")] = False
    options: Annotated[
        dict[str, str],
        AfterValidator(_known),
        Field(repr=False, description="Further arguments of clickhouse-driver (ca_certs, verify, alt_hosts)."),
    ] = {}
    analyst_user: Annotated[str, Field(description="Read-only user for analysts.")] = "analyst"
    analyst_password: Annotated[SecretStr, Field(description="Password of the analyst.")] = SecretStr("")
    analyst_password_file: Annotated[Path | None, Field(description="File with that password, instead of it.")] = None


class SchemaRegistry(Section):
    url: Annotated[str | None, Field(description="Confluent-compatible registry; without it, ids follow from the files in schemas/.")] = (
        None
    )
    user: Annotated[str, Field(description="User of the registry, if it asks for one.")] = ""
    password: Annotated[SecretStr, Field(description="Password of that user.")] = SecretStr("")
    password_file: Annotated[Path | None, Field(description="File with that password, instead of it.")] = None

    @model_validator(mode="after")
    def _keep_secrets_out_of_the_url(self) -> Self:
        """It is shown, in logs too."""
        if "@" in (self.url or "").partition("://")[2].partition("/")[0]:
            raise ValueError("the url holds a user or a password: give them as user and password_file")
        return self


class Sessions(Section):
    retention: Annotated[
        Duration, Field(ge=1, description="Event time after a cookie's last activity for which live sessions stay exact.")
    ] = 604_800_000
    max_events_per_cookie: Annotated[
        int, Field(ge=1, description="Events of one cookie that live sessions remember; one with more is a robot.")
    ] = 100_000


class DeadLetters(Section):
    ceiling: Annotated[
        float, Field(gt=0, le=1, description="Share of refused records, of the last 10,000, above which `record` stops; 1 never stops it.")
    ] = 0.5


class Worker(Section):
    batch_records: Annotated[int, Field(ge=1, description="Most records that a worker reads at once, and that may wait for it.")] = 10_000
    instance: Annotated[
        str | None,
        Field(description="Name of this process among its kind: restarted under it, it has its partitions back at once. `run` sets it."),
    ] = None
    deleted_records: Annotated[
        Literal["stop", "skip"],
        Field(description="When records were deleted from a topic before they were read: stop, or go on without them."),
    ] = "stop"


class Edge(Section):
    portals_file: Annotated[Path, Field(description="TOML file of the portals that the collector serves.")] = Path("portals.toml")
    host: Annotated[str, Field(min_length=1, description="Address that the collector listens on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="Port that the collector listens on.")] = 8400
    metrics_port: Annotated[
        int, Field(ge=0, le=65000, description="Port of /metrics; each further process of the collector takes the next one. 0 is none.")
    ] = 9464
    spool_bytes: Annotated[
        int, Field(ge=1 << 16, description="Most that each process of the collector keeps on disk while Kafka is away.")
    ] = 1 << 30
    trusted_proxies: Annotated[
        str, Field(description="Networks of your own proxies, separated by commas, whose X-Forwarded-For is believed.")
    ] = ""


class Log(Section):
    level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="Least severe messages to show.")] = "info"
    format: Annotated[Literal["text", "json"], Field(description="Text for people, or one JSON object a line.")] = "text"


class Settings(BaseSettings):
    """All settings, checked. Building one raises pydantic's ValidationError; `load` says the same in a user's words."""

    model_config = SettingsConfigDict(
        env_prefix=settings_sources.PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    kafka: Kafka = Kafka()
    clickhouse: ClickHouse = ClickHouse()
    schema_registry: SchemaRegistry = SchemaRegistry()
    sessions: Sessions = Sessions()
    dead_letters: DeadLetters = DeadLetters()
    worker: Worker = Worker()
    edge: Edge = Edge()
    log: Log = Log()
    policy_file: Annotated[
        Path | None, Field(description="TOML file of the policy (sessions.gap, identity.rebind ...); without it the defaults.")
    ] = None
    data_dir: Annotated[
        Path,
        Field(
            description="Where this machine keeps what it must not forget: data of embedded servers, health of parts, replays, the spool."
        ),
    ] = Path(".data")
    generation: Annotated[
        int, Field(ge=1, description="Generation that a worker belongs to (see `replay`). `run` and `worker --generation` set it.")
    ] = 1

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not a source of ours
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - nor this
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            settings_sources.TomlFile(settings_cls),
            settings_sources.EmbeddedServers(settings_cls),
        )

    @property
    def suffix(self) -> str:
        """Put behind the names of all that a generation has of its own; the first has the plain names."""
        return "" if self.generation == 1 else f".g{self.generation}"

    @property
    def database(self) -> str:
        """The generation's database, with its tables and views."""
        return self.clickhouse.database + self.suffix.replace(".", "_")

    def of_generation(self, number: int) -> Self:
        """The same settings, with the names of another generation. Its policy is in the registry (pipeline/replay/registry.py)."""
        return self.model_copy(update={"generation": number})

    def acting_as(self, principal: str) -> Self:
        """As a part sees them: with its own credentials for Kafka if it has some, and without whatever secrets it does not need."""
        assert principal in PRINCIPALS, principal
        kafka = self.kafka.model_copy(
            update={"options": {**self.kafka.options, **self.kafka.principals.get(principal, {})}, "principals": {}}
        )
        unneeded = dict.fromkeys(("analyst_password",) if principal in _USE_CLICKHOUSE else ("password", "analyst_password"), SecretStr(""))
        return self.model_copy(update={"kafka": kafka, "clickhouse": self.clickhouse.model_copy(update=unneeded)})

    def environment(self) -> dict[str, str]:
        """The same settings as environment variables, secrets included: what a child process needs to see what we see."""
        variables = {"PIPELINE_CONFIG": settings_sources.NO_FILE}
        for name, value in values(self):
            if value is not None and name not in _FILES_OF_SECRETS:  # they have been read
                variables[settings_sources.variable(name)] = _as_text(value)
        return variables


def load(**overrides: Any) -> Settings:
    """The settings of this process. UsageError names what is wrong, where it was set, and the closest name that exists."""
    settings_sources.refuse_unknown_variables(names())
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise UsageError(settings_sources.explanation(error, names())) from None
    except SettingsError:
        raise UsageError(settings_sources.explanation_of_json(names())) from None


def names() -> list[str]:
    """Every setting as `section.name`, in the order of declaration."""
    return [name for name, _ in fields()]


def fields() -> Iterator[tuple[str, Any]]:
    """Every setting's dotted name and pydantic's description of its field."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            for inner, inner_field in section.model_fields.items():
                yield f"{name}.{inner}", inner_field
        else:
            yield name, field


_USE_CLICKHOUSE = ("record", "status")
_FILES_OF_SECRETS = frozenset(f"{name}_file" for name, field in fields() if field.annotation is SecretStr)


def values(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Every setting's dotted name and its value (secrets as SecretStr)."""
    for name in names():
        section, _, inner = name.partition(".")
        value = getattr(settings, section)
        yield name, getattr(value, inner) if inner else value


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
