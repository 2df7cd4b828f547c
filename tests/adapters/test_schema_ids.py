"""Ids of schemas: from the files without a registry, and from a registry when there is one."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from pipeline.adapters import schema_ids
from pipeline.adapters.avro import Registry
from pipeline.adapters.contracts import load_schemas
from pipeline.core.outcomes import Reason, Refused
from pipeline.errors import UserError
from pipeline.settings import Kafka, SchemaRegistry, Settings
from tests import builders

FIRST_ID = 1_000
VIEW = builders.page_view(1)


class FakeRegistry(ThreadingHTTPServer):
    """What we use of a Confluent-compatible registry; ids begin at FIRST_ID. `answers` are given first, as (status, body)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.schemas: dict[int, str] = {}
        self.subjects: set[str] = set()
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.authorization: str | None = None
        self.asked: Counter[int] = Counter()
        """How often for each id."""
        self.is_away = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def settings(self, **more: Any) -> Settings:
        return Settings(kafka=Kafka(topic_prefix="t-"), schema_registry=SchemaRegistry(url=self.url, **more))

    def register(self, subject: str, schema: str) -> int:
        self.subjects.add(subject)
        known = {text: schema_id for schema_id, text in self.schemas.items()}
        schema_id = known.get(schema, FIRST_ID + len(self.schemas))
        self.schemas[schema_id] = schema
        return schema_id


class _Answering(BaseHTTPRequestHandler):
    server: FakeRegistry

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.authorization = self.headers.get("Authorization")
        if not self._given():
            self._answer(200, {"id": self.server.register(self.path.split("/")[2], body["schema"])})

    def do_GET(self) -> None:
        if self._given():
            return
        schema_id = int(self.path.split("?")[0].split("/")[3])
        self.server.asked[schema_id] += 1
        schema = self.server.schemas.get(schema_id)
        if schema is None:
            self._answer(404, {"error_code": 40403, "message": "Schema not found"})
        else:
            self._answer(200, {"schema": schema, "schemaType": "AVRO"})

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def _given(self) -> bool:
        if self.server.is_away:
            self._answer(503, {"error_code": 50301, "message": "away"})
            return True
        if self.server.answers:
            self._answer(*self.server.answers.pop(0))
            return True
        return False

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    monkeypatch.setattr(schema_ids, "RETRY_S", 0.05)
    monkeypatch.setattr(schema_ids, "LATE_S", 0.3)
    registry = FakeRegistry()
    thread = threading.Thread(target=registry.serve_forever, daemon=True)
    thread.start()
    yield registry
    registry.shutdown()
    registry.server_close()
    thread.join()


def test_without_a_registry_ids_are_those_of_the_files() -> None:
    """So every process has the same ones; that no two files have one id is a matter of the contracts (test_files)."""
    registry = Registry(Settings(schema_registry=SchemaRegistry()))
    assert registry.encode_event(VIEW)[:5] == b"\x00" + load_schemas()["page_view"][-1].schema_id.to_bytes(4)
    unknown = registry.decode_events([b"\x00" + (999).to_bytes(4)]).refused
    assert [refusal.reason for _, refusal in unknown] == [Reason.UNKNOWN_SCHEMA]


def test_schemas_are_registered_under_their_topics(fake: FakeRegistry) -> None:
    """A registry has each record under its topic's value subject, prefix included, and its ids go before the records."""
    registry = Registry(fake.settings())
    assert len(fake.schemas) == sum(map(len, load_schemas().values()))
    assert {"t-page-views-value", "t-identity-links-value"} <= fake.subjects
    value = registry.encode_event(VIEW)
    assert "page_view" in fake.schemas[int.from_bytes(value[1:5])]
    assert registry.decode_events([value]).batches[0].events() == [VIEW]


def test_what_is_registered_is_plain_avro(fake: FakeRegistry) -> None:
    """Examples and our own ids stay in the files."""
    Registry(fake.settings())
    assert not [text for text in fake.schemas.values() if "examples" in text or "schema_id" in text]


def test_a_schema_of_somebody_else_is_looked_up(fake: FakeRegistry) -> None:
    """A record whose schema was registered after we started is read by it."""
    registry = Registry(fake.settings())
    other = json.dumps(dict(load_schemas()["page_view"][0].json) | {"doc": "Another version."})
    schema_id = fake.register("t-page-views-value", other)
    value = b"\x00" + schema_id.to_bytes(4) + registry.encode_event(VIEW)[5:]
    assert registry.decode_events([value]).batches[0].events() == [VIEW]


def test_an_id_that_is_given_away_later_is_known_then(fake: FakeRegistry) -> None:
    """That an id is unknown is not remembered."""
    registry = Registry(fake.settings())
    value = b"\x00" + (FIRST_ID + len(fake.schemas)).to_bytes(4) + registry.encode_event(VIEW)[5:]
    assert registry.decode_events([value]).refused[0][1].reason is Reason.UNKNOWN_SCHEMA
    fake.register("t-page-views-value", json.dumps(dict(load_schemas()["page_view"][0].json) | {"doc": "Later."}))
    assert registry.decode_events([value]).batches[0].events() == [VIEW]


def test_an_id_that_the_registry_learns_late_is_waited_for(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part asks for itself: one that asked a moment earlier must not refuse what the others take."""
    monkeypatch.setattr(schema_ids, "LATE_S", 30.0)
    registry = Registry(fake.settings())
    first, second = (json.dumps(dict(load_schemas()["page_view"][0].json) | {"doc": doc}) for doc in ("Late.", "Later."))
    late = FIRST_ID + len(fake.schemas)
    values = [b"\x00" + schema_id.to_bytes(4) + registry.encode_event(VIEW)[5:] for schema_id in (late, late + 1)]
    for seconds, schema in ((0.4, first), (0.8, second)):
        threading.Timer(seconds, fake.register, ("t-page-views-value", schema)).start()
    decoded = registry.decode_events(values)
    assert not decoded.refused
    assert min(fake.asked[late], fake.asked[late + 1]) > 1, "it was known at once"


def test_ids_that_nobody_has_hold_up_nothing_for_long(fake: FakeRegistry) -> None:
    """They are waited for once and together; the next ones, while the registry learns nothing, not at all."""
    registry = Registry(fake.settings())
    values = [b"\x00" + (5_000 + number).to_bytes(4) for number in range(50)]
    for _ in range(2):
        assert len(registry.decode_events(values).refused) == 50
    assert fake.asked[5_000] > 2
    assert {fake.asked[5_000 + number] for number in range(1, 50)} == {2}, "once for each batch"


def test_a_command_does_not_wait_for_an_id(fake: FakeRegistry) -> None:
    """What it reads, dead letters for example, has been there for long."""
    registry = Registry(fake.settings(), wait_s=1)
    assert registry.decode_events([b"\x00" + (5_000).to_bytes(4)]).refused
    assert fake.asked[5_000] == 1


def test_a_registry_that_says_nothing_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the question and never answers: we say that we wait, and whoever cannot wait for ever is told."""
    monkeypatch.setattr(schema_ids, "ANSWER_S", 0.1)
    monkeypatch.setattr(schema_ids, "RETRY_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, capture_logs() as logged:
        settings = Settings(schema_registry=SchemaRegistry(url=f"http://127.0.0.1:{silent.getsockname()[1]}"))
        with pytest.raises(UserError, match=r"schema_registry\.url is 'http://127\.0\.0\.1:\d+': it does not answer"):
            Registry(settings, wait_s=0.5)
    assert {entry["event"] for entry in logged} == {"waiting for the schema registry"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "record", "name": "invoice", "fields": []}, Reason.UNKNOWN_TYPE),
        ("string", Reason.UNKNOWN_TYPE),
        ({"type": "record", "name": "page_view", "fields": [{"name": "a", "type": "nonsense"}]}, Reason.UNKNOWN_SCHEMA),
        (
            {"type": "record", "name": "page_view", "fields": [{"name": "a", "type": {"type": "array", "items": "null"}}]},
            Reason.UNKNOWN_SCHEMA,
        ),
    ],
)
def test_a_schema_that_is_no_event_is_refused(fake: FakeRegistry, schema: Any, expected: Reason) -> None:
    """Another record, no record, no Avro, or arrays of nothing: each has its reason, and none raises."""
    registry = Registry(fake.settings())
    value = b"\x00" + fake.register("other", json.dumps(schema)).to_bytes(4)
    ((_, refused),) = registry.decode_events([value]).refused
    assert isinstance(refused, Refused)
    assert refused.reason is expected


def test_a_busy_registry_is_asked_again(fake: FakeRegistry) -> None:
    """No record is refused because the registry was busy; the log says that we wait."""
    registry = Registry(fake.settings())
    schema_id = fake.register("x", json.dumps(dict(load_schemas()["page_view"][0].json) | {"doc": "x"}))
    fake.answers = [(503, {"error_code": 50302, "message": "busy"})] * 2
    with capture_logs() as logged:
        decoded = registry.decode_events([b"\x00" + schema_id.to_bytes(4) + registry.encode_event(VIEW)[5:]])
    assert decoded.batches[0].events() == [VIEW]
    assert [entry["event"] for entry in logged] == ["waiting for the schema registry"] * 2


def test_a_registry_that_does_not_answer_in_time_is_named() -> None:
    """Whoever cannot wait for ever is told the setting, its value and what is wrong."""
    nowhere = Settings(schema_registry=SchemaRegistry(url="http://127.0.0.1:9"))
    with pytest.raises(UserError, match=r"schema_registry\.url is 'http://127\.0\.0\.1:9': it does not answer"):
        Registry(nowhere, wait_s=0)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "it refused the user 'ada'. Correct schema_registry.user and .password"),
        (409, "it refuses page_view.v1 under t-page-views-value, because it is incompatible with what is there: no"),
        (422, "Is this a Confluent-compatible schema registry?"),
    ],
)
def test_a_registry_that_refuses_us_is_quoted(fake: FakeRegistry, status: int, said: str) -> None:
    """The message says what to do, and never the password."""
    fake.answers = [(status, {"error_code": status, "message": "no"})]
    with pytest.raises(UserError) as refused:
        Registry(fake.settings(user="ada", password=SecretStr("secret")))
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_credentials_are_sent(fake: FakeRegistry) -> None:
    """User and password go along as basic authentication."""
    Registry(fake.settings(user="ada", password=SecretStr("secret")))
    assert fake.authorization == "Basic YWRhOnNlY3JldA=="


def test_a_url_that_is_none_is_named() -> None:
    """A spelling mistake in the url is found before anything is sent."""
    with pytest.raises(UserError, match=r"schema_registry\.url is 'registry:8081'.*Expected http"):
        Registry(Settings(schema_registry=SchemaRegistry(url="registry:8081")))
