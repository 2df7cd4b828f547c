"""Security of the embedded Kafka, switched on and off over data that are there."""

from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from infra.servers import Servers, embedded
from pipeline.errors import UserError

pytestmark = pytest.mark.timeout(400)


def client(servers: Servers, **options: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": servers.kafka.bootstrap_servers, "log_level": 0, **options})


def test_on_and_off_over_the_same_data(tmp_path: Path) -> None:
    """It stays as it was until something else is said, and a server that runs is not changed under its clients."""
    data = tmp_path / "data"
    with embedded(data) as servers:
        assert servers.kafka.options == {}
        admin = client(servers)
        admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(30)
    with embedded(data, secure=True) as servers:
        assert "kept" in client(servers, **servers.kafka.options).list_topics(timeout=10).topics
        nobody = client(servers)
        with pytest.raises(KafkaException):
            nobody.list_topics(timeout=3)
        with embedded(data) as same:
            assert same == servers
        with pytest.raises(UserError, match=r"Kafka runs with security in .*stop it first"), embedded(data, secure=False):
            pass
    with embedded(data, secure=False) as servers:
        assert servers.kafka.principals == {}
        assert "kept" in client(servers).list_topics(timeout=10).topics
