"""A Faust app as we use it: batches, no web server, no topics of its own, nothing but the consumer group and the agents.

Faust's defaults that are changed, and why, stand beside the settings. Kafka options come under librdkafka's names, for all
clients alike; what Faust and aiokafka need of them is translated here.
"""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import aiokafka.errors
import faust

from pipeline.adapters import batching, kafka
from pipeline.errors import UserError
from pipeline.settings import Settings

_CHATTY = ("mode.timers", batching.__name__, __name__)
"""Loggers of Faust's that tell what is no news: a commit that waited for a fetch, our subclasses starting and stopping."""


@dataclass(frozen=True, slots=True)
class Timings:
    """In seconds. A worker that dies without a word is replaced after `session`; brokers allow 6 s or more."""

    session: float = 12.0
    heartbeat: float = 3.0
    commit: float = 0.5
    rebalance: float = 60.0
    """How long a worker may take to finish its batch when partitions move, before it loses them."""


class BatchApp(faust.App):
    """A Faust app that keeps nothing on disk, and knows the logical names of its topics."""

    settings: Settings
    on_refused: Callable[[Exception], NoReturn]
    """Hears that we may not read what we read (`batching.NOT_ALLOWED`), or that the broker will not let us in (UserError)."""

    def logical_name(self, topic: str) -> str:
        """The topic's name in `topics/`."""
        return kafka.logical_name(self.settings, topic)

    def _create_directories(self) -> None:
        """Faust would make `<name>-data/v1/tables`."""


USUAL = Timings()


def faust_app(settings: Settings, name: str, timings: Timings = USUAL) -> BatchApp:
    """The app of the part `name`; its consumer group is `name` after the prefix. UserError if an option cannot be translated."""
    batching.register()
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.ERROR)
    instance = settings.worker.instance
    app = BatchApp(
        kafka.group_name(settings, name),
        broker=batching.brokers(settings.kafka.bootstrap_servers),
        broker_credentials=credentials(settings.kafka.options),
        broker_client_id=kafka.group_name(settings, name) + (f"-{instance}" if instance else ""),
        consumer_group_instance_id=kafka.member_name(settings, name),
        broker_session_timeout=timings.session,
        broker_heartbeat_interval=timings.heartbeat,
        broker_request_timeout=max(90.0, timings.session),
        broker_rebalance_timeout=timings.rebalance,
        broker_commit_interval=timings.commit,
        broker_max_poll_records=settings.worker.batch_records,
        consumer_max_fetch_size=batching.FETCH_BYTES,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=batching.BUFFERED_BATCHES,
        stream_wait_empty=True,  # a batch that has begun ends before we leave
        stream_recovery_delay=0,
        processing_guarantee="at_least_once",  # Faust's exactly_once duplicates and hangs
        table_standby_replicas=0,
        topic_allow_declare=False,  # topics are contracts, made from topics/
        topic_disable_leader=True,
        reply_create_topic=False,
        web_enabled=False,  # it would serve to anybody
        worker_redirect_stdouts=False,
        autodiscover=False,
        key_serializer="raw",
        value_serializer="raw",
        store="memory://",
    )
    app.settings = settings
    return app


def refused(settings: Settings, error: Exception) -> UserError:
    """In a user's words: one of `batching.NOT_ALLOWED`, unless it is in them already."""
    if isinstance(error, UserError):
        return error
    names = ", ".join(map(str, error.args))
    what = f"read group {names}" if isinstance(error, aiokafka.errors.GroupAuthorizationFailedError) else f"read topic {names}"
    return kafka.forbidden(settings, what)


def credentials(options: dict[str, str]) -> Any:
    """Faust's credentials for librdkafka's `security.protocol`, `sasl.*` and `ssl.*`; None for plain text."""
    protocol = options.get("security.protocol", "plaintext").upper()
    if protocol == "PLAINTEXT":
        return None
    if protocol == "SSL":
        return faust.SSLCredentials(context=_tls(options))
    if protocol not in ("SASL_PLAINTEXT", "SASL_SSL"):
        raise UserError(f"kafka.options: security.protocol is {protocol!r}; use plaintext, ssl, sasl_plaintext or sasl_ssl.")
    mechanism = options.get("sasl.mechanism", options.get("sasl.mechanisms", "PLAIN")).upper()
    if mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise UserError(f"kafka.options: sasl.mechanism is {mechanism!r}; the workers know PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.")
    return faust.SASLCredentials(
        username=_given(options, "sasl.username"),
        password=_given(options, "sasl.password"),
        mechanism=mechanism,
        ssl_context=_tls(options) if protocol == "SASL_SSL" else None,
    )


def _given(options: dict[str, str], name: str) -> str:
    if name not in options:
        raise UserError(f"kafka.options: {name} is missing, and security.protocol asks for it.")
    return options[name]


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    """As librdkafka does it: the system's authorities unless one is named, host names checked unless that is switched off."""
    if {"ssl.certificate.pem", "ssl.key.pem"} & options.keys():
        raise UserError("kafka.options: the workers read certificates from files: use ssl.certificate.location and ssl.key.location.")
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, **_authorities(options))
        if certificate := _file(options, "ssl.certificate.location"):
            context.load_cert_chain(certificate, _file(options, "ssl.key.location"), options.get("ssl.key.password"))
    except (ssl.SSLError, ValueError) as error:
        raise UserError(f"kafka.options: the files of ssl.* do not make a TLS client: {error}") from error
    if options.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
        context.check_hostname = False
    if options.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _authorities(options: dict[str, str]) -> dict[str, str]:
    if "ssl.ca.pem" in options:
        return {"cadata": options["ssl.ca.pem"]}
    if location := _file(options, "ssl.ca.location"):
        return {"capath" if Path(location).is_dir() else "cafile": location}
    return {}


def _file(options: dict[str, str], name: str) -> str | None:
    location = options.get(name)
    if location and not Path(location).exists():
        raise UserError(f"kafka.options: {name} names {location!r}, which does not exist.")
    return location
