"""Ids of schemas from a Confluent-compatible registry (schema_registry.url).

A registry that does not answer is waited for, with a line in the log; a record is never refused because of that. An id that it does not
know may be one that it learns late (a copy of the registry is behind, a producer was faster), and each part asks for itself: so a worker
asks again for `LATE_S` before the id counts as unknown. It does that once per id, for all ids of that time together, and rests after it was
in vain, so that records with ids of nobody hold up nothing for long.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError
from confluent_kafka.schema_registry.common._httpx_compat import httpx

from pipeline.adapters.contracts import SchemaVersion, home_topic, load_schemas
from pipeline.adapters.kafka import topic_name
from pipeline.errors import UserError
from pipeline.logs import logger
from pipeline.settings import Settings

RETRY_S = 2.0
ANSWER_S = 5.0
"""A registry that takes a question and says nothing for so long is away."""
LATE_S = 10.0
"""How long an id may be unknown at first."""
REST_S = 60.0
"""After ids that stayed unknown the next ones are not waited for, for so long."""
_LATE_EVERY_S = 0.25
_REMEMBERED = 1_000
"""Unknown ids that are remembered as waited for."""
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_Answer = TypeVar("_Answer")

log = logger("registry")


class RegistryIds:
    """The registry's ids of our schemas, registered on building it; and its schemas by id.

    With `wait_s` (a command) it gives up if the registry is not there after so long, and never waits for an id. May be asked from threads.
    """

    def __init__(self, settings: Settings, wait_s: float | None = None) -> None:
        self._settings = settings.schema_registry
        self._late = _Late(LATE_S if wait_s is None else 0.0)
        self._until = None if wait_s is None else time.monotonic() + wait_s
        self._client = self._connect()
        self._ids: dict[tuple[str, int], int] = {}
        versions = [version for versions in load_schemas().values() for version in versions]
        for version in sorted(versions, key=lambda version: version.schema_id):
            subject = topic_name(settings.of_generation(1), home_topic(version.name)) + "-value"  # a schema is the same in all
            self._ids[version.name, version.version] = self._register(subject, version)
        self._until = None

    def of(self, version: SchemaVersion) -> int:
        return self._ids[version.name, version.version]

    def schema(self, schema_id: int) -> str | None:
        """The Avro schema with this id as JSON text; None if the registry has none, and had none for a while."""
        until = self._late.until(schema_id)
        while (found := self._schema(schema_id)) is None:
            if time.monotonic() >= until:
                self._late.unknown(schema_id)
                if until:
                    log.warning("the schema registry does not know an id: its records are refused", id=schema_id, url=self._settings.url)
                return None
            time.sleep(_LATE_EVERY_S)
        self._late.learned()
        return found.schema_str if found.schema_type == "AVRO" else None

    def _schema(self, schema_id: int) -> Schema | None:
        try:
            return self._answer(lambda: self._client.get_schema(schema_id))
        except SchemaRegistryError as error:
            if error.http_status_code == 404:
                return None
            raise self._refusal(error) from None

    def _connect(self) -> SchemaRegistryClient:
        options: dict[str, object] = {"url": self._settings.url, "max.retries": 0, "timeout": ANSWER_S}
        if self._settings.user:
            options["basic.auth.user.info"] = f"{self._settings.user}:{self._settings.password.get_secret_value()}"
        try:
            return SchemaRegistryClient.new_client(options)
        except ValueError as error:
            raise UserError(f"schema_registry.url is {self._settings.url!r}: {error}. Expected http(s)://host:port.") from None

    def _register(self, subject: str, version: SchemaVersion) -> int:
        schema = Schema(version.text, "AVRO")
        try:
            return self._answer(lambda: self._client.register_schema(subject, schema))
        except SchemaRegistryError as error:
            if error.http_status_code == 409:
                raise UserError(
                    f"schema_registry.url is {self._settings.url!r}: it refuses {version.name}.v{version.version} under {subject}, "
                    f"because it is incompatible with what is there: {error.error_message}. "
                    f"Another product may use these topics: set kafka.topic_prefix."
                ) from None
            raise self._refusal(error) from None

    def _answer(self, ask: Callable[[], _Answer]) -> _Answer:
        """The registry's answer; asks again while it is away or busy."""
        while True:
            try:
                return ask()
            except SchemaRegistryError as error:
                if error.http_status_code not in _BUSY:
                    raise
                reason = str(error)
            except (httpx.HTTPError, OSError) as error:
                reason = f"{type(error).__name__}: {error}"
            if self._until is not None and time.monotonic() > self._until:
                raise UserError(
                    f"schema_registry.url is {self._settings.url!r}: it does not answer ({reason}). Start it, or correct the url."
                )
            log.warning("waiting for the schema registry", url=self._settings.url, error=reason)
            time.sleep(RETRY_S)

    def _refusal(self, error: SchemaRegistryError) -> UserError:
        about = f"schema_registry.url is {self._settings.url!r}"
        if error.http_status_code in (401, 403):
            return UserError(f"{about}: it refused the user {self._settings.user!r}. Correct schema_registry.user and .password.")
        return UserError(f"{about}: it answered: {error}. Is this a Confluent-compatible schema registry?")


class _Late:
    """Until when an id that the registry does not know is asked for again, by the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = 0.0
        """Ids that are met before then wait together ..."""
        self._rests_until = 0.0
        """... and those after it not at all, until then."""
        self._unknown: set[int] = set()

    def until(self, schema_id: int) -> float:
        """0 if it is not waited for."""
        now = time.monotonic()
        if schema_id in self._unknown or not self._seconds or self._until <= now < self._rests_until:
            return 0.0
        if now >= self._until:
            self._until = now + self._seconds
            self._rests_until = self._until + REST_S
        return self._until

    def unknown(self, schema_id: int) -> None:
        """Its records are refused by now: it is not waited for again."""
        if len(self._unknown) >= _REMEMBERED:
            self._unknown.clear()
        self._unknown.add(schema_id)

    def learned(self) -> None:
        """The registry learns: waiting is not in vain."""
        self._rests_until = 0.0
