"""Kafka with SCRAM and ACLs: the whole pipeline runs, and who has another's rights is told so and ends."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but left out of __all__
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from pipeline.adapters import acls, kafka
from pipeline.adapters.changelog import Changelog
from pipeline.errors import UserError
from pipeline.settings import Settings
from tests.end_to_end.collisions import collisions
from tests.end_to_end.running import command
from tests.security.conftest import Run
from tests.security.secured import changed, posing_as, with_options
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)

WAIT_S = 60


def test_the_whole_pipeline_runs_with_least_rights(settings: Settings, run: Run) -> None:
    """Faust and librdkafka log in, each part as itself; nobody is refused anything (what comes out: test_portals.py)."""
    letters = command(settings, "dead-letters", "stats", "--json")
    assert letters.returncode == 0, letters.stderr
    assert "" in [stat["topic"] for stat in json.loads(letters.stdout)]
    assert "Traceback" not in run.log
    assert "restarted" not in run.log


@pytest.mark.parametrize(
    ("principal", "other", "said"),
    [
        ("publish", "sessionize", "user 'sessionize' to see settings of topic contact-imports"),
        ("sessionize", "identify", "user 'identify' to read topic custom-events"),
        ("identify", "producer", "user 'producer' to read topic contact-imports"),
        ("record", "sessionize", "user 'sessionize' to read topic contact-imports"),
        ("status", "publish", "user 'publish' to"),
        ("dead-letters", "producer", "user 'producer' to read topic dead-letters"),
    ],
)
def test_a_part_with_the_rights_of_another_is_refused(settings: Settings, principal: str, other: str, said: str, tmp_path: Path) -> None:
    """One line that says who may not do what, and who grants it; exit code 1; no traceback, and nobody waits."""
    events = tmp_path / "events.jsonl"
    events.write_bytes(b"\n".join(collisions(10, seed=1)))
    arguments = {"publish": ("publish", str(events)), "status": ("status",), "dead-letters": ("dead-letters", "stats")}
    ended = command(posing_as(settings, principal, other), *arguments.get(principal, ("worker", principal)))
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "python -m pipeline topics acls" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("arguments", [("worker", "sessionize"), ("worker", "record"), ("publish",), ("status",)], ids=" ".join)
def test_a_wrong_password_is_no_absent_neighbour(settings: Settings, arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Nobody waits for a broker that does not let us in, and the password is not repeated."""
    events = tmp_path / "events.jsonl"
    events.write_bytes(b"\n".join(collisions(10, seed=1)))
    wrong = with_options(settings, arguments[-1], sasl_password="not-the-password")
    ended = command(wrong, *arguments, *([str(events)] if arguments == ("publish",) else []))
    assert ended.returncode == 1
    assert f"refused our credentials (sasl.username is '{arguments[-1]}')" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "not-the-password" not in ended.stderr


def without(settings: Settings, kind: ResourceType, name: str, user: str) -> None:
    """Takes rights away from a user."""
    client = kafka.admin(settings)
    for answer in client.delete_acls(
        [AclBindingFilter(kind, name, ResourcePatternType.ANY, f"User:{user}", None, AclOperation.ANY, AclPermissionType.ANY)]  # type: ignore[arg-type]
    ).values():
        assert answer.result()


@pytest.fixture
def granted_again(settings: Settings) -> Iterator[None]:
    yield
    acls.apply_rights(settings)


@pytest.mark.usefixtures("granted_again")
def test_groups_need_a_right(settings: Settings) -> None:
    without(settings, ResourceType.GROUP, "sessionize", "sessionize")
    with pytest.raises(UserError, match="user 'sessionize' to read group sessionize"):
        acls.check_rights(settings.acting_as("sessionize"), "sessionize")


@pytest.mark.usefixtures("granted_again")
def test_transactions_need_a_right(settings: Settings) -> None:
    without(settings, ResourceType.TRANSACTIONAL_ID, "sessionize-visitors-", "sessionize")
    changelog = Changelog(settings.acting_as("sessionize"), "sessionize", "visitors", 0)
    with pytest.raises(UserError, match=r"user 'sessionize' to write transaction sessionize-visitors-0.*topics acls"):
        changelog.open()


@pytest.mark.parametrize(
    ("part", "kind", "name", "said"),
    [
        ("sessionize", ResourceType.TOPIC, "page-views", "read topic page-views"),
        ("sessionize", ResourceType.TRANSACTIONAL_ID, "sessionize-visitors-", "write transaction sessionize-visitors-"),
        ("identify", ResourceType.TOPIC, "identity-evidence", "topic identity-evidence"),
        ("identify", ResourceType.GROUP, "identify", "group identify"),
        ("sessionize", ResourceType.GROUP, "sessionize", "group sessionize"),
        ("record", ResourceType.TOPIC, "dead-letters", "topic dead-letters"),
    ],
)
@pytest.mark.usefixtures("granted_again")
def test_rights_that_are_taken_away_end_a_worker_that_runs(
    settings: Settings, run: Run, tmp_path: Path, part: str, kind: ResourceType, name: str, said: str
) -> None:
    """What was granted when it started and is no more: it says so in a line and ends with 1; a supervisor tries again.

    What it reads meanwhile are events that are there already: other tests read the tables of these servers, and nothing may change.
    """
    log, events = tmp_path / "worker.log", tmp_path / "events.jsonl"
    events.write_bytes(b"\n".join(run.lines[1][:100]))
    environment = {**os.environ, **settings.acting_as(part).environment()}
    with log.open("wb") as output:
        worker = subprocess.Popen([sys.executable, "-m", "pipeline", "worker", part], env=environment, stdout=output, stderr=output)
    try:
        until(lambda: "ready" in log.read_text(), seconds=WAIT_S)
        without(settings, kind, name, part)
        published = command(settings, "publish", str(events))
        assert published.returncode == 0, published.stderr
        assert worker.wait(WAIT_S) == 1
    finally:
        worker.kill()
        worker.wait()
    assert said in log.read_text()
    assert "python -m pipeline topics acls" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_rights_are_applied_once_and_taken_back(settings: Settings) -> None:
    """Idempotent; what our users have on our names without need goes; a dry run only says so; other users' rights are left alone."""
    extra = AclBinding(
        ResourceType.TOPIC, "contacts", ResourcePatternType.LITERAL, "User:producer", "*", AclOperation.READ, AclPermissionType.ALLOW
    )
    foreign = AclBinding(
        ResourceType.TOPIC, "contacts", ResourcePatternType.LITERAL, "User:somebody", "*", AclOperation.READ, AclPermissionType.ALLOW
    )
    client = kafka.admin(settings)
    for answer in client.create_acls([extra, foreign]).values():
        answer.result()
    without(settings, ResourceType.GROUP, "record", "record")
    tried = acls.apply_rights(settings, dry_run=True)
    done = acls.apply_rights(settings)
    assert tried == done
    assert [(right.user, right.operation, right.name) for right in done.removed] == [("producer", "read", "contacts")]
    assert [(right.user, right.operation, right.kind, right.name) for right in done.granted] == [("record", "read", "group", "record")]
    assert acls.apply_rights(settings) == acls.Applied([], [])
    assert foreign in client.describe_acls(acls.anything()).result()


def test_an_administrator_who_is_also_a_principal_stays_one(settings: Settings) -> None:
    """What the user that we come as has beyond the rights of a part is not taken away."""
    broad = AclBinding(ResourceType.TOPIC, "*", ResourcePatternType.LITERAL, "User:admin", "*", AclOperation.ALL, AclPermissionType.ALLOW)
    client = kafka.admin(settings)
    for answer in client.create_acls([broad]).values():
        answer.result()
    shared = with_options(settings, "producer", sasl_username="admin")
    assert acls.apply_rights(shared, dry_run=True).removed == []
    without(settings, ResourceType.TOPIC, "*", "admin")


def test_only_an_administrator_grants_rights(settings: Settings) -> None:
    with pytest.raises(UserError, match="user 'record' to see and change rights"):
        acls.apply_rights(changed(settings, options={**settings.kafka.options, **settings.kafka.principals["record"]}))


@pytest.mark.parametrize(("topic", "is_allowed"), [("page-views", True), ("sessions", False), ("dead-letters", False), ("contacts", False)])
def test_what_a_producer_may_write(settings: Settings, topic: str, is_allowed: bool) -> None:
    """The broker decides, whatever the client does."""
    refused = []
    producer = kafka.producer(settings.acting_as("producer"), on_delivery=lambda error, _: refused.append(error))
    producer.produce(topic, b"not Avro")
    producer.flush(WAIT_S)
    assert [error is None for error in refused] == [is_allowed]
