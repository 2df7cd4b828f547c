"""TLS with a certificate of our own: the settings reach librdkafka, aiokafka and the ClickHouse driver."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import kafka_server
from infra.servers import Servers, embedded
from pipeline.adapters import acls, clickhouse, topics
from pipeline.errors import UserError
from pipeline.settings import Settings
from tests.end_to_end.running import command
from tests.security.secured import changed, settings_of
from tests.tls import new_certificate, tls_before
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
    return new_certificate(tmp_path_factory.mktemp("tls"))


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
    """ClickHouse's, which does not speak TLS itself."""
    with tls_before(secured.clickhouse.port, certificate) as port:
        yield port


def test_clickhouse_speaks_tls(settings: Settings, tls_port: int, certificate: Path) -> None:
    """With the authority it connects; without, the certificate is named, and nobody waits for it to change."""
    at = settings.clickhouse.model_copy(update={"port": tls_port, "secure": True, "options": {"ca_certs": str(certificate)}})
    assert clickhouse.connect(settings.model_copy(update={"clickhouse": at})).execute("SELECT 1") == [(1,)]
    untrusting = settings.model_copy(update={"clickhouse": at.model_copy(update={"options": {}})})
    with pytest.raises(UserError, match=r"clickhouse.options: .*certificate.*ca_certs") as refused:
        clickhouse.connect(untrusting)
    assert not isinstance(refused.value, clickhouse.AwayError)
