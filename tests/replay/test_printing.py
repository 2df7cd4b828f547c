"""How far a replay is, in words: what `replay start` says while it works, where there is no terminal for a bar."""

import re

import pytest

from pipeline.replay import printing
from pipeline.replay.printing import Pace, rebuilding
from pipeline.replay.registry import About, Generation, State


class Clock:
    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(printing, "time", clock)
    return clock


def test_the_rate_and_the_time_left_are_those_of_what_is_done_now(clock: Clock) -> None:
    """One that goes on after kill -9 does not count what it had done before as done in no time."""
    pace = Pace(total=12_000, done=2_000)
    clock.now += 2
    assert pace.at(3_000) is None, "too early to say anything"
    clock.now += 8
    assert pace.at(7_000) == "7,000 of 12,000 raw records, 500/s, about 10 s left"
    assert pace.at(7_100) is None, "said a moment ago"
    clock.now += 10
    assert pace.at(12_000) == "12,000 of 12,000 raw records, 500/s"


def test_nothing_is_promised_before_anything_is_done(clock: Clock) -> None:
    pace = Pace(total=12_000)
    clock.now += 10
    assert pace.at(0) == "0 of 12,000 raw records, 0/s"


def test_without_a_terminal_there_is_a_line_now_and_then(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    generation = Generation(2, State.BUILDING, about=About(begun_at=1_700_000_000_000, records=9_000, done=3_000))
    with rebuilding() as (begun, progress):
        begun(generation, True)
        for records in range(3_000, 9_001, 500):
            clock.now += 1
            progress(records)
    assert capfd.readouterr().err.splitlines() == [
        "going on with generation 2, begun 2023-11-14 22:13:20 UTC: 9,000 raw records",
        "5,000 of 9,000 raw records, 400/s, about 10 s left",
        "7,500 of 9,000 raw records, 450/s, about 3.3 s left",
    ]


def test_on_a_terminal_there_is_a_bar(clock: Clock, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With how much of how much, and the rate."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with rebuilding() as (begun, progress):
        begun(Generation(2, State.BUILDING, about=About(records=9_000)), False)
        clock.now += 9
        progress(9_000)
    shown = re.sub("\x1b[^a-zA-Z]*[a-zA-Z]", "", capfd.readouterr().err)
    assert re.search(r"rebuilding ━+ 9000/9000 1,000/s 0:00:00", shown)
    assert " raw records, " not in shown, "no lines beside the bar"
