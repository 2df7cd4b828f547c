"""Many refused records in a row mean that we are wrong: `record` stops."""

import threading

import pytest

from pipeline import record
from pipeline.adapters import ceiling
from pipeline.adapters.avro import Registry
from pipeline.adapters.ceiling import Ceiling, CeilingError
from pipeline.core.outcomes import Reason, Refused
from pipeline.settings import DeadLetters, Settings
from tests.adapters.recording import ask, caught_up, publish, raw, read, recording
from tests.builders import page_view


def test_a_flood_of_refused_records_stops_us_before_it_is_buried(
    ready: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says why, and the topic keeps its records: with the ceiling lifted they go among the dead letters."""
    monkeypatch.setattr(ceiling, "CEILING_RECORDS", 100)
    publish(ready, [("page-views", b"k", b"no avro")] * 60 + raw(registry, *(page_view(number) for number in range(40))))
    stop = threading.Event()
    with pytest.raises(CeilingError, match=r"60 of the last 100 records .* malformed_avro .* dead_letters\.ceiling=1"):
        record.recorder(ready, stop).run()
    assert read(ready, "dead-letters") == []
    lifted = ready.model_copy(update={"dead_letters": DeadLetters(ceiling=1)})
    with recording(lifted):
        caught_up(ready)
    assert len(read(ready, "dead-letters")) == 60
    assert ask(ready, "SELECT count() FROM events") == [(40,)]


def test_the_ceiling_is_a_share_of_the_last_records() -> None:
    """A few refused records among many are no reason to stop, nor are many among few; an old flood is forgotten."""
    ceiling = Ceiling(0.5)
    refused = [Refused(Reason.UNKNOWN_SCHEMA, "schema id 99")] * 4_000
    ceiling.check(0, refused)
    ceiling.check(0, refused)
    ceiling.check(9_000, [])
    ceiling.check(0, refused[:400])
    for _ in range(10):
        ceiling.check(4_000, refused[:3_000])
    with pytest.raises(CeilingError, match="unknown_schema"):
        ceiling.check(0, refused)
