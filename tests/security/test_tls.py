"""TLS with a certificate of our own: the settings reach librdkafka, aiokafka and the ClickHouse driver."""

import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra import kafka_server
from infra.servers import Servers, embedded
from pipeline.adapters import acls, clickhouse, topics
from pipeline.errors import UserError
from pipeline.settings import Settings
from tests.end_to_end.running import command
from tests.security.secured import changed, settings_of
from tests.waiting import until

pytestmark = pytest.mark.timeout(400)

SSL = """
ssl.keystore.type=PEM
ssl.keystore.location={certificate}
ssl.truststore.type=PEM
ssl.truststore.location={certificate}
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    pkcs8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*pkcs8) + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_kafka_speaks_tls_with_both_clients(certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SASL_SSL: topics are made by librdkafka, and a Faust worker reads them by aiokafka; without the authority neither is let in."""
    monkeypatch.setattr(kafka_server, "PROTOCOL", "SASL_SSL")
    login = kafka_server.LOGIN | {"security.protocol": "SASL_SSL", "ssl.ca.location": str(certificate)}
    monkeypatch.setattr(kafka_server, "LOGIN", login)
    monkeypatch.setattr(kafka_server, "SECURITY", kafka_server.SECURITY + SSL.format(certificate=certificate))
    with embedded(tmp_path / "servers", secure=True) as servers:
        settings = settings_of(servers, tmp_path)
        topics.create_topics(settings)
        acls.apply_rights(settings)
        log = tmp_path / "worker.log"
        environment = {**os.environ, **settings.acting_as("sessionize").environment()}
        with log.open("wb") as output:
            part = [sys.executable, "-m", "pipeline", "worker", "sessionize"]
            worker = subprocess.Popen(part, env=environment, stdout=output, stderr=output)
        try:
            until(lambda: "ready" in log.read_text(), seconds=90)
        finally:
            worker.kill()
            worker.wait()
        strange = {name: value for name, value in settings.kafka.options.items() if name != "ssl.ca.location"}
        refused = command(changed(settings, options=strange), "worker", "sessionize")
        assert refused.returncode == 1
        assert "no TLS connection" in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.fixture
def tls_port(secured: Servers, certificate: Path) -> Iterator[int]:
    """A port that speaks TLS and passes on to ClickHouse, which does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listening, context, secured.clickhouse.port), daemon=True).start()
    yield listening.getsockname()[1]
    listening.close()


def _serve(listening: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listening.accept()
            with suppress(OSError):
                ours, theirs = context.wrap_socket(connection, server_side=True), socket.create_connection(("127.0.0.1", port))
                for source, target in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_clickhouse_speaks_tls(settings: Settings, tls_port: int, certificate: Path) -> None:
    """With the authority it connects; without, the certificate is named, and nobody waits for it to change."""
    at = settings.clickhouse.model_copy(update={"port": tls_port, "secure": True, "options": {"ca_certs": str(certificate)}})
    assert clickhouse.connect(settings.model_copy(update={"clickhouse": at})).execute("SELECT 1") == [(1,)]
    untrusting = settings.model_copy(update={"clickhouse": at.model_copy(update={"options": {}})})
    with pytest.raises(UserError, match=r"clickhouse.options: .*certificate.*ca_certs") as refused:
        clickhouse.connect(untrusting)
    assert not isinstance(refused.value, clickhouse.AwayError)
