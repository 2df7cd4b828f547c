"""What is no event ends among the dead letters, once, with its reason and its bytes, and its neighbours arrive."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, Producer

from pipeline.adapters import clickhouse, kafka
from pipeline.adapters.avro import Registry
from pipeline.settings import Settings
from tests.builders import event_id, line, page_view
from tests.end_to_end.running import caught_up, command, running

GOOD = {"type": "page_view", "event_id": event_id(1), "portal_id": 1, "occurred_at": 1_700_000_000_000, "url": "https://x.io/"}
REFUSED_LINES = {
    "too_large": orjson.dumps({**GOOD, "title": "x" * 1_000_000}),
    "malformed_json": b'{"type": "page_view"',
    "unknown_type": orjson.dumps({**GOOD, "type": "page_turn"}),
    "missing_field": orjson.dumps({**GOOD, "url": ""}),
    "invalid_event_id": orjson.dumps({**GOOD, "event_id": "1"}),
    "invalid_portal": orjson.dumps({**GOOD, "portal_id": 0}),
    "invalid_timestamp": orjson.dumps({**GOOD, "occurred_at": 1_700_000_000}),
    "invalid_utk": orjson.dumps({**GOOD, "utk": "me"}),
    "invalid_email": orjson.dumps({**GOOD, "type": "contact_import", "email": "a@b@c"}),
    "invalid_url": orjson.dumps({**GOOD, "url": "/relative"}),
    "invalid_field": orjson.dumps({**GOOD, "title": 7}),
}


def refused_records(settings: Settings) -> dict[str, bytes]:
    """Values that somebody else's producer might put on `page-views`."""
    registry = Registry(settings)
    good = registry.encode_event(page_view(99))
    upper = page_view(98, url="not a url")
    return {
        "malformed_avro": good[:-3],
        "unknown_schema": b"\x00" + (999_999).to_bytes(4) + good[5:],
        "invalid_url": registry.encode_event(upper),
    }


@pytest.mark.timeout(300)
def test_every_reason_of_refusal(settings: Settings, tmp_path: Path) -> None:
    """By line and by record: one dead letter and one failed event for each, also when the file is published again."""
    lines = [value for reason in REFUSED_LINES for value in (line(page_view(len(reason), at=1_700_000_000_000)), REFUSED_LINES[reason])]
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(lines))
    good = {event_id(len(reason)) for reason in REFUSED_LINES} | {event_id(100)}
    log = tmp_path / "run.log"
    with running(settings, log, workers=1):
        first = command(settings, "publish", str(file), "--json")
        again = command(settings, "publish", str(file), "--json")
        assert (first.returncode, again.returncode) == (0, 0), first.stderr
        records = refused_records(settings)
        produce(settings, "page-views", [*records.values(), Registry(settings).encode_event(page_view(100))])
        caught_up(settings, log)
    assert orjson.loads(again.stdout)["refused"] == dict.fromkeys(REFUSED_LINES, 1)

    client = clickhouse.connect(settings)
    database = settings.clickhouse.database
    assert {str(id_) for (id_,) in client.execute(f"SELECT event_id FROM {database}.events")} == good
    failed = client.execute(f"SELECT reason, toString(count()) FROM {database}.failed_events GROUP BY reason")
    expected = dict.fromkeys([*REFUSED_LINES, *records], "1") | {"invalid_url": "2"}
    assert dict(failed) == expected

    sessions = client.execute(f"SELECT activity_count FROM {database}.sessions")
    assert sessions == [(len(good),)], "the last page view came under another key than its cookie's, and is in the session all the same"

    letters = list(dead_letters(settings))
    by_line = {value for headers, value in letters if headers["dlq.topic"] == b""}
    assert by_line == set(REFUSED_LINES.values())
    by_record = {headers["dlq.reason"].decode(): value for headers, value in letters if headers["dlq.topic"]}
    assert by_record == records


def produce(settings: Settings, topic: str, values: list[bytes]) -> None:
    producer: Producer = kafka.producer(settings)
    for number, value in enumerate(values):
        producer.produce(kafka.topic_name(settings, topic), value, key=f"key-{number}", headers=[("trace", b"\xff\x00")])
    assert producer.flush(30) == 0


def dead_letters(settings: Settings) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Headers and value of each record of the dead-letter topic."""
    consumer: Consumer = kafka.consumer(settings, group="reader", **{"enable.partition.eof": True, "auto.offset.reset": "earliest"})
    topic = kafka.topic_name(settings, "dead-letters")
    consumer.subscribe([topic])
    partitions = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    ended = 0
    while ended < partitions:
        message = consumer.poll(30)
        assert message is not None, "the dead letters did not come to an end"
        if message.error():
            ended += 1
            continue
        yield dict(message.headers() or []), message.value() or b""
    consumer.close()
