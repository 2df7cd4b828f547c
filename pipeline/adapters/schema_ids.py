"""Ids of schemas from a Confluent-compatible registry (schema_registry.url).

A registry that does not answer is waited for, with a line in the log; a record is never refused because of that.
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
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_Answer = TypeVar("_Answer")

log = logger("registry")


class RegistryIds:
    """The registry's ids of our schemas, registered on building it; and its schemas by id."""

    def __init__(self, settings: Settings, wait_s: float | None = None) -> None:
        self._settings = settings.schema_registry
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
        """The Avro schema with this id as JSON text; None if the registry has none."""
        try:
            found = self._answer(lambda: self._client.get_schema(schema_id))
        except SchemaRegistryError as error:
            if error.http_status_code == 404:
                return None
            raise self._refusal(error) from None
        return found.schema_str if found.schema_type == "AVRO" else None

    def _connect(self) -> SchemaRegistryClient:
        options: dict[str, object] = {"url": self._settings.url, "max.retries": 0}
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
