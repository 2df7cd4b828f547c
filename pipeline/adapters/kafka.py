"""Kafka clients from the settings: producers, consumers, admin; and a broker's errors in a user's words.

Whatever stands in `kafka.options` (security.protocol, sasl.*, ssl.*) is passed through to librdkafka under its names.
"""

import os
import platform
import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from pipeline.adapters.contracts import load_topics
from pipeline.errors import UserError
from pipeline.settings import Settings

_PRODUCER = {
    "acks": "all",
    "enable.idempotence": True,
    "partitioner": "murmur2_random",  # as Java clients and Faust partition: topics with one key are partitioned alike
    "compression.type": "lz4",
    "linger.ms": 20,
}
_CONSUMER = {
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,  # what follows from a record is flushed first
    "isolation.level": "read_committed",
    "check.crcs": True,  # a damaged record is an error, not another record
    "fetch.queue.backoff.ms": 10,  # 1000 leaves the fetcher idle behind a fast reader
}
# librdkafka's own errors begin with _, which does not make them private.
_CREDENTIALS = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.UNSUPPORTED_SASL_MECHANISM}  # noqa: SLF001
PERMISSIONS = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
"""The broker knows us and does not let us: waiting does not mend it."""
LOCKED_OUT = _CREDENTIALS | {KafkaError._SSL}  # noqa: SLF001
"""The broker, or we, will not talk at all: nor does waiting mend this."""


class AwayError(UserError):
    """No broker answers; one may yet come."""


class DamagedError(UserError):
    """A topic holds what nobody has written."""


NO_GROUP = "no-group"
"""Name that librdkafka needs, and looks up at the broker, for a consumer that joins no group."""
Client = TypeVar("Client")


def topic_name(settings: Settings, logical: str) -> str:
    """A topic's name on the broker, from its name in `topics/`: what `publish` writes is common to all generations."""
    return settings.kafka.topic_prefix + logical + ("" if is_common(logical) else settings.suffix)


def logical_name(settings: Settings, name: str) -> str:
    """The topic's name in `topics/`, from that on the broker."""
    return name.removeprefix(settings.kafka.topic_prefix).removesuffix(settings.suffix)


def is_common(logical: str) -> bool:
    """Whether all generations share the topic: raw topics and dead letters."""
    topic = load_topics().get(logical)
    return topic is not None and "publish" in topic.producers


def member_name(settings: Settings, part: str) -> str | None:
    """Name of this process in the group of its part, for static membership: restarted under it, it has its partitions back at once.

    None if the process has no name (worker.instance). The machine is in it and the data directory: each `run` counts its own processes.
    """
    instance = settings.worker.instance
    if not instance:
        return None
    place = blake2b(os.fsencode(settings.data_dir.resolve()), digest_size=4).hexdigest()
    return f"{part}-{re.sub('[^a-zA-Z0-9._-]', '-', platform.node())}-{place}-{instance}"


def group_name(settings: Settings, part: str) -> str:
    """A part's consumer group on the broker, and what its transactions are named after."""
    return settings.kafka.topic_prefix + part + settings.suffix


def producer(settings: Settings, **overrides: Any) -> Producer:
    """A producer that loses, repeats and reorders nothing. Overrides are librdkafka's options. UserError if an option is wrong."""
    return _client(settings, Producer, _PRODUCER | overrides)


def consumer(settings: Settings, group: str | None = None, **overrides: Any) -> Consumer:
    """A consumer of committed records that commits nothing by itself; `group` None is for `assign()` without a group."""
    name = group_name(settings, group or NO_GROUP)
    return _client(settings, Consumer, {"group.id": name} | _CONSUMER | overrides)


def admin(settings: Settings, **overrides: Any) -> AdminClient:
    return _client(settings, AdminClient, overrides)


def reach(settings: Settings, timeout_s: float = 10.0) -> Any:
    """The broker's ClusterMetadata. AwayError if it does not answer in time, another UserError if it does not let us in."""
    errors: list[KafkaError] = []
    client = admin(settings, error_cb=errors.append)
    try:
        return client.list_topics(timeout=timeout_s)
    except KafkaException as exception:
        client.poll(0)  # delivers what went wrong with the connections
        refused = [error for error in errors if error.code() in LOCKED_OUT]
        raise user_error(settings, (refused or [*errors, exception.args[0]])[0]) from None


def forbidden(settings: Settings, what: str) -> UserError:
    """We are not allowed to do `what`: "write topic contacts"."""
    user = settings.kafka.options.get("sasl.username")
    who = f"user {user!r}" if user else "us (kafka.options names no user)"
    return UserError(
        f"Kafka at {settings.kafka.bootstrap_servers} does not allow {who} to {what}. Is it the right user for this part "
        f"(kafka.principals)? Then an administrator grants what it needs with `python -m pipeline topics acls`."
    )


def refusal(settings: Settings, exception: KafkaException, what: str) -> Exception:
    """What to raise when a call failed: `forbidden` if we may not, else the exception itself."""
    return forbidden(settings, what) if exception.args[0].code() in PERMISSIONS else exception


def reading(settings: Settings, error: KafkaError, topic: str | None, part: str) -> str:
    """What a consumer of the part was not allowed to do, in the words of `forbidden`."""
    if topic is None or error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
        return f"read group {group_name(settings, part)}"
    return f"read topic {topic}"


def user_error(settings: Settings, error: KafkaError, what: str = "") -> UserError:
    """What a user can do about an error of the broker or of the way to it. `what` was not done: "write topic contacts"."""
    servers = settings.kafka.bootstrap_servers
    code = error.code()
    if code in _CREDENTIALS:
        user = settings.kafka.options.get("sasl.username", "")
        return UserError(
            f"kafka.options: the broker at {servers} refused our credentials (sasl.username is {user!r}): {error.str()}. "
            f"Correct sasl.mechanism, sasl.username and sasl.password there, or in kafka.principals."
        )
    if code in PERMISSIONS:
        return forbidden(settings, what or f"do this ({error.str()})")
    if code == KafkaError._SSL:  # noqa: SLF001
        return UserError(f"kafka.options: no TLS connection to {servers}: {error.str()}. Correct security.protocol and ssl.* there.")
    return AwayError(
        f"kafka.bootstrap_servers is {servers!r}: no broker answers there ({error.str()}). "
        f"Start Kafka (`make up` starts the embedded one), or set PIPELINE_KAFKA__BOOTSTRAP_SERVERS."
    )


def ended(settings: Settings, error: KafkaError) -> UserError | None:
    """What to say of an error after which a consumer of librdkafka is dead and says no more; None if it lives."""
    if not error.fatal() and error.code() != KafkaError._FATAL:  # noqa: SLF001 - its public name
        return None
    return UserError(
        f"Kafka has ended our membership of the group: {error.str()}. Starting again mends it, unless two processes of a part have "
        f"one worker.instance ({settings.worker.instance!r}): then give each its own."
    )


def damage(message: Message) -> DamagedError | None:
    """What to say of an error that tells of a damaged record; None if it tells of something else."""
    error = message.error()
    if error is None or error.code() != KafkaError._BAD_MSG:  # noqa: SLF001 - its public name
        return None
    return DamagedError(
        f"{message.topic()}[{message.partition()}] is damaged on the broker's disk at or after offset {message.offset()}: {error.str()}. "
        "Nothing after it was read. Restore the topic, from a replica or a backup."
    )


def _client(settings: Settings, make: Callable[[dict[str, Any]], Client], options: dict[str, Any]) -> Client:
    """Ours win over the defaults, the user's over ours."""
    quiet = {} if settings.log.level == "debug" else {"log_level": 2}  # we say ourselves that a broker is away
    configured = {"bootstrap.servers": settings.kafka.bootstrap_servers, **quiet, **options, **settings.kafka.options}
    try:
        return make(configured)
    except KafkaException as exception:
        raise UserError(f"kafka.options: {exception.args[0].str()}. Correct it, or PIPELINE_KAFKA__OPTIONS.") from None
