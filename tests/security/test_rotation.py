"""Passwords that change under workers that run: each says that its own is refused, and ends, so that it is started with the new one."""

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.kafka_server import make_users
from infra.servers import Servers, embedded
from pipeline.adapters import acls, clickhouse, topics
from pipeline.app import ROLES
from tests.security.secured import settings_of
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)

WAIT_S = 60
AWAY = re.compile("waiting for Kafka|Unable connect to node")
"""The latter is aiokafka's way to say it."""


def rotate(data: Path, servers: Servers) -> None:
    """New passwords of the parts' users, at the broker and for whoever is started from now on; connections that are there stay."""
    file = data / "kafka-passwords.json"
    passwords = json.loads(file.read_text())
    passwords |= {part: f"new-{passwords[part]}" for part in ROLES}
    file.write_text(json.dumps(passwords))
    make_users(int(servers.kafka.bootstrap_servers.rpartition(":")[2]), passwords)


def test_who_has_an_old_password_ends_when_kafka_asks_for_it_again(tmp_path: Path) -> None:
    """They go on as long as they are connected, wait as long as Kafka is away, and end when it refuses them: that is not away, whatever
    their client libraries say.
    """
    data, logs = tmp_path / "servers", {part: tmp_path / f"{part}.log" for part in ROLES}
    with ExitStack() as stack:
        with embedded(data, secure=True) as servers:
            settings = settings_of(servers, tmp_path)
            topics.create_topics(settings)
            acls.apply_rights(settings)
            clickhouse.migrate(settings)
            workers = {part: stack.enter_context(_worker(part, settings.acting_as(part).environment(), logs[part])) for part in ROLES}
            for worker in workers.values():
                stack.callback(worker.kill)
            for part in ROLES:
                until(lambda part=part: "ready" in logs[part].read_text(), logs[part].read_text)  # type: ignore[misc]
            rotate(data, servers)
        for part in ROLES:
            until(lambda part=part: AWAY.search(logs[part].read_text()), logs[part].read_text)  # type: ignore[misc]
        assert [worker.poll() for worker in workers.values()] == [None] * len(ROLES)
        with embedded(data):
            for part, worker in workers.items():
                assert worker.wait(WAIT_S) == 1, part
                said = logs[part].read_text()
                assert f"refused our credentials (sasl.username is '{part}')" in said
                assert "Traceback" not in said
                assert settings.kafka.principals[part]["sasl.password"] not in said


def _worker(part: str, environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", "worker", part], env={**os.environ, **environment}, stdout=output, stderr=output
        )
