"""What was refused is told, and put back when it can be an event; on the real broker and ClickHouse."""

import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import letters as reading
from pipeline.adapters import clickhouse, kafka, topics
from pipeline.adapters.avro import Registry
from pipeline.core.events import Event
from pipeline.settings import Settings
from tests.adapters.recording import caught_up, publish, raw, read, recording
from tests.builders import START, form_submission, line, page_view
from tests.cli.conftest import Ended, Run

REGISTRY = Registry(Settings())
CANARIES = (b"canary@secret.example", b"c0ffee00c0ffee00c0ffee00c0ffee00", b"a-payload-nobody-may-see", b"203.0.113.77", b"Canary/1.0")
"""An address, a cookie, a text, an IP and a browser, in every record that is refused below."""


@pytest.fixture
def ready(settings: Settings, tmp_path: Path) -> Settings:
    """Settings whose topics exist."""
    topics.create_topics(settings)
    return settings.model_copy(update={"data_dir": tmp_path})


@pytest.fixture
def letters(ready: Settings, run: Run) -> Callable[..., Ended]:
    """Runs `dead-letters` with these settings: `letters("stats")`."""
    return lambda *arguments: run("dead-letters", *arguments, **ready.environment())


def buried(event: bytes, reason: str, topic: str = "page-views", key: bytes | None = None, **more: bytes) -> tuple[Any, dict[str, bytes]]:
    """A dead letter as an older version wrote it: the record, and its headers."""
    headers = {**more, "dlq.reason": reason.encode(), "dlq.error": b"an old bug", "dlq.topic": topic.encode(), "dlq.part": b"record"}
    headers |= {"dlq.partition": b"2", "dlq.offset": b"7"} if topic else {"dlq.partition": b"-1", "dlq.offset": b"3"}
    return ("dead-letters", key, event), headers


def failed(settings: Settings) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = clickhouse.connect(settings).execute("SELECT reason, value FROM failed_events ORDER BY reason")
    return rows


def events(settings: Settings) -> int:
    ((count,),) = clickhouse.connect(settings).execute("SELECT count() FROM events")
    return int(count)


def test_nothing_refused(letters: Callable[..., Ended]) -> None:
    assert letters("stats").out == "no dead letters\n"
    assert letters("requeue").out == "no such letters\n"
    assert json.loads(letters("list", "--json").out) == []


def test_what_was_buried_twice_is_one_letter(ready: Settings, letters: Callable[..., Ended]) -> None:
    """By two generations, or again after a crash."""
    record, headers = buried(b"\xff no avro", "malformed_avro", key=b"k")
    publish(ready, [record, record], headers)
    assert [stat["letters"] for stat in json.loads(letters("stats", "--json").out)] == [1]
    assert json.loads(letters("requeue", "--json").out)["stay"] == {"malformed_avro": 1}


def test_whoever_takes_letters_may_take_their_time(ready: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Putting a thousand back can take longer than a broker that answers may: that is not its silence."""
    monkeypatch.setattr(reading, "_PATIENCE_S", 1.0)
    for number in b"12":
        publish(ready, [buried(b"\xff%d" % number, "malformed_avro", "")[0]], buried(b"", "malformed_avro", "")[1])
    taken = 0
    for _ in reading.letters(ready, reading.Which()):
        time.sleep(1.5)
        taken += 1
    assert taken == 2


def test_what_is_refused_is_counted_listed_and_shown(ready: Settings, letters: Callable[..., Ended]) -> None:
    publish(ready, [("page-views", b"k", b"\xff no avro"), ("page-views", b"k", None), ("custom-events", b"k", b"x")], {"trace": b"abc"})
    with recording(ready):
        caught_up(ready)
    counted = {(stat["reason"], stat["topic"], stat["part"]): stat["letters"] for stat in json.loads(letters("stats", "--json").out)}
    assert counted == {("malformed_avro", "page-views", "record"): 2, ("malformed_avro", "custom-events", "record"): 1}
    assert len(json.loads(letters("list", "--json", "--topic", "custom-events").out)) == 1
    assert json.loads(letters("list", "--json", "--reason", "too_large").out) == []
    assert json.loads(letters("list", "--json", "--until", "2020-01-01T00:00:00Z").out) == []
    assert len(json.loads(letters("list", "--json", "--since", "2020-01-01T00:00:00Z").out)) == 3
    assert "malformed_avro" in letters("stats").out
    (first,) = json.loads(letters("list", "--json", "--topic", "page-views", "--limit", "1").out)
    assert first["partition"] is not None
    shown = [letters("show", entry["letter"]).out for entry in json.loads(letters("list", "--json").out)]
    assert sum("ff 20 6e 6f 20 61 76 72 6f" in text and "header trace" in text for text in shown) == 1


def test_a_place_that_holds_no_letter(letters: Callable[..., Ended]) -> None:
    assert (letters("show", "0:99").code, letters("show", "0:99").err) == (1, "error: there is no dead letter at 0:99\n")
    assert letters("show", "first").code == 2
    assert letters("list", "--since", "yesterday").code == 2


def test_what_can_be_an_event_by_now_goes_back(ready: Settings, letters: Callable[..., Ended]) -> None:
    """To the topic and partition where it stood, byte for byte, with its own headers; and it is no failed event any more."""
    view, form = page_view(1), form_submission(2, at=START + 1, email="a@x.io")
    good, (record, headers) = REGISTRY.encode_event(view), buried(REGISTRY.encode_event(view), "unknown_schema", key=b"key", trace=b"abc")
    publish(ready, [record], headers)
    for value, reason in ((line(form), "invalid_field"), (b"{", "malformed_json")):
        record, headers = buried(value, reason, topic="")
        publish(ready, [record], headers)
    with recording(ready):
        caught_up(ready)
        assert len(failed(ready)) == 3
        would = json.loads(letters("requeue", "--json").out)
        assert would == {"back": {"page-views": 1, "form-submissions": 1}, "stay": {"malformed_json": 1}, "dry_run": True}
        assert read(ready, "page-views") == []
        assert json.loads(letters("requeue", "--yes", "--json", "--reason", "unknown_schema").out)["back"] == {"page-views": 1}
        assert "went back to form-submissions: 1\nstayed, still malformed_json: 1" in letters("requeue", "--yes").out
        caught_up(ready)
        assert failed(ready) == [("malformed_json", "{")]
        assert events(ready) == 2
        assert "back" in letters("requeue", "--yes", "--json").out
        assert json.loads(letters("requeue", "--yes", "--json").out) == {"back": {}, "stay": {"malformed_json": 1}, "dry_run": False}
        assert [stat["letters"] for stat in json.loads(letters("stats", "--json").out)] == [1]
    (message,) = read(ready, "page-views")
    assert (message.partition(), message.key(), message.value(), message.headers()) == (2, b"key", good, [("trace", b"abc")])


def test_of_what_can_go_back_only_what_is_named_does(ready: Settings, letters: Callable[..., Ended]) -> None:
    """By topic, reason and time, and by all together; from `--since` on, and before `--until`. Without `--yes` nothing goes anywhere."""
    second, third = 1_700_006_400_000, 1_700_092_800_000
    views = [REGISTRY.encode_event(page_view(number)) for number in range(3)]
    form = REGISTRY.encode_event(form_submission(4, email="a@x.io"))
    bury(ready, second - 1, views[0], "unknown_schema", "page-views")
    bury(ready, second, views[1], "unknown_schema", "page-views")
    bury(ready, second, b"\xff no avro", "malformed_avro", "page-views")
    bury(ready, third - 1, form, "unknown_schema", "form-submissions")
    bury(ready, third, line(page_view(5)), "invalid_field", "")

    bad = {"malformed_avro": 1}
    since, until = ("--since", "2023-11-15T00:00:00Z"), ("--until", str(third))
    expected: list[tuple[tuple[str, ...], dict[str, int], dict[str, int]]] = [
        ((), {"page-views": 3, "form-submissions": 1}, bad),
        (("--topic", "page-views"), {"page-views": 2}, bad),
        (("--topic", "form-submissions"), {"form-submissions": 1}, {}),
        (("--topic", ""), {"page-views": 1}, {}),
        (since, {"page-views": 2, "form-submissions": 1}, bad),
        (("--until", "2023-11-15T00:00:00Z"), {"page-views": 1}, {}),
        (until, {"page-views": 2, "form-submissions": 1}, bad),
        ((*since, *until), {"page-views": 1, "form-submissions": 1}, bad),
        ((*since, *until, "--topic", "page-views"), {"page-views": 1}, bad),
        ((*since, *until, "--topic", "page-views", "--reason", "unknown_schema"), {"page-views": 1}, {}),
        ((*since, "--topic", "custom-events"), {}, {}),
    ]
    for named, back, stay in expected:
        assert json.loads(letters("requeue", "--json", *named).out) == {"back": back, "stay": stay, "dry_run": True}, named
    assert read(ready, "page-views") == read(ready, "form-submissions") == []
    assert len(read(ready, "dead-letters")) == 5

    said = letters("requeue", "--yes", *since, *until, "--topic", "page-views").out
    assert said == "went back to page-views: 1\nstayed, still malformed_avro: 1\n"
    assert [message.value() for message in read(ready, "page-views")] == [views[1]]
    assert read(ready, "form-submissions") == []
    left = json.loads(letters("requeue", "--json").out)
    assert left == {"back": {"page-views": 2, "form-submissions": 1}, "stay": bad, "dry_run": True}


def bury(settings: Settings, at: int, event: bytes, reason: str, topic: str) -> None:
    """A letter from that moment (epoch ms); no other is of the same record."""
    (name, key, value), headers = buried(event, reason, topic)
    headers |= {"dlq.offset": b"%d" % (zlib.crc32(event))}
    producer = kafka.producer(settings)
    producer.produce(kafka.topic_name(settings, name), value, key, timestamp=at, headers={**headers})
    assert producer.flush(30) == 0


def test_putting_back_twice_counts_once(ready: Settings, letters: Callable[..., Ended]) -> None:
    """As after a crash between the record and its mark."""
    record, headers = buried(REGISTRY.encode_event(page_view(1)), "unknown_schema", key=(page_view(1).utk or "").encode())
    publish(ready, [record, *raw(REGISTRY, page_view(1))], headers)
    with recording(ready):
        letters("requeue", "--yes")
        caught_up(ready)
        assert (events(ready), failed(ready)) == (1, [])


def test_nothing_personal_in_logs_headers_and_lists(
    ready: Settings, letters: Callable[..., Ended], run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the reason of the refusal, what the record contains is in the record only."""
    personal = {"email": CANARIES[0].decode(), "utk": CANARIES[1].decode(), "note": CANARIES[2].decode(), "ip": CANARIES[3].decode()}
    whole = json.loads(line(form_submission(1, email="a@x.io"))) | personal | {"user_agent": CANARIES[4].decode()}
    broken: list[dict[str, Any]] = [
        whole | wrong
        for wrong in (
            {"email": f"{personal['email']} {personal['email']}"}, {"utk": personal["utk"] + "0"}, {"occurred_at": personal["note"]},
            {"type": personal["note"]}, {"portal_id": personal["email"]}, {"event_id": personal["note"]}, {"form_id": [personal["note"]]},
        )
    ]  # fmt: skip
    file = tmp_path / "canaries.jsonl"
    file.write_bytes(b"\n".join([*(json.dumps(entry).encode() for entry in broken), b"{" + b" ".join(CANARIES)]))
    published = run("publish", str(file), **ready.environment())
    good = REGISTRY.encode_event(_canary_event())
    publish(
        ready,
        [("form-submissions", CANARIES[1], bad) for bad in (good[:-3], good + b"more", b"\x01" + good, b"\x00\x00\x00\x00\x63" + good[5:])],
    )
    publish(ready, [("page-views", CANARIES[1], good)])
    with recording(ready):
        caught_up(ready)
    logged = "".join(capfd.readouterr())
    listed = letters("list", "--limit", "100").out + letters("stats").out + letters("requeue").out
    refused = read(ready, "dead-letters")
    assert len(refused) == len(broken) + 1 + 5
    headers: list[Any] = [message.headers() for message in refused]
    said = b"".join(value for of_one in headers for _, value in of_one)
    for canary in CANARIES:
        assert any(canary in (message.value() or b"") for message in refused)
        assert canary not in said
        assert canary.decode() not in logged + published.out + published.err + listed


def _canary_event() -> Event:
    return form_submission(
        9,
        email=CANARIES[0].decode(),
        utk=CANARIES[1].decode(),
        fields=[("n", CANARIES[2].decode())],
        ip=CANARIES[3].decode(),
        user_agent=CANARIES[4].decode(),
    )
