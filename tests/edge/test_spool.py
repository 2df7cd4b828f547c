"""The spool: what `append` has taken survives a crash at any byte; what is damaged is set aside, not lost and not believed."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.edge.spool import DamageError, Record, Spool, SpoolFullError, read

RECORDS = [Record("page-views", f"key {number}".encode(), bytes([number]) * 50) for number in range(5)]


def filled(root: Path, records: list[Record] = RECORDS) -> Path:
    """A segment on disk, written record by record by a process that is gone."""
    spool = Spool(root, 1 << 20)
    for record in records:
        spool.append([record])
    spool.close()
    (segment,) = spool.segments()
    return segment


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    assert list(read(filled(tmp_path))) == RECORDS


def test_a_torn_end_costs_only_what_was_never_acknowledged(tmp_path: Path) -> None:
    """Cut at every byte: the records before the cut are all there, and nothing else."""
    segment = filled(tmp_path)
    whole = segment.read_bytes()
    frame = len(whole) // len(RECORDS)
    for size in range(len(whole)):
        segment.write_bytes(whole[:size])
        assert list(read(segment)) == RECORDS[: size // frame]


def test_a_blank_end_is_torn_too(tmp_path: Path) -> None:
    """After a power failure a file may be longer than what was written to it."""
    segment = filled(tmp_path)
    segment.write_bytes(segment.read_bytes() + bytes(500))
    assert list(read(segment)) == RECORDS


@given(st.integers(0, 4), st.integers(0, 1_000), st.integers(1, 255))
@example(1, 0, 1)  # the length, which then claims all that follows
def test_damage_is_noticed(tmp_path_factory: pytest.TempPathFactory, record: int, offset: int, change: int) -> None:
    """A changed byte, wherever it is, gives no other record: those before it are read, then it is damage, or a torn end in the last."""
    segment = filled(tmp_path_factory.mktemp("spool"))
    data = bytearray(segment.read_bytes())
    frame = len(data) // len(RECORDS)
    data[record * frame + offset % frame] ^= change
    segment.write_bytes(data)
    found: list[Record] = []
    try:
        found.extend(read(segment))
    except DamageError:
        pass
    else:
        assert record == 4
    assert found == RECORDS[:record]


def test_a_full_spool_takes_nothing_more_and_goes_on_when_drained(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 200)
    spool.append(RECORDS[:2])
    with pytest.raises(SpoolFullError):
        spool.append(RECORDS[2:])
    segment = spool.oldest()
    assert segment is not None
    assert list(read(segment)) == RECORDS[:2]
    spool.remove(segment)
    assert spool.size == 0
    spool.append(RECORDS[2:4])
    assert spool.oldest() != segment


def test_each_process_has_a_directory_and_inherits_those_of_the_dead(tmp_path: Path) -> None:
    """Two at a time never share one; the next to start takes over what the dead have left."""
    first, second = Spool(tmp_path, 1 << 20), Spool(tmp_path, 1 << 20)
    assert (first.number, second.number) == (0, 1)
    second.append(RECORDS)
    second.close()
    third = Spool(tmp_path, 1 << 20)
    assert third.number == 1
    third.close()
    first.close()
    heir = Spool(tmp_path, 1 << 20)
    assert heir.number == 0
    (segment,) = heir.segments()
    assert list(read(segment)) == RECORDS
    assert heir.size == segment.stat().st_size
