"""Names in Kafka."""

from pathlib import Path

from pipeline.adapters.kafka import member_name
from pipeline.settings import Settings, Worker


def test_the_name_of_a_process_is_that_of_no_other(tmp_path: Path) -> None:
    """Of another part, place among its like, or `run` in another directory; the same when it is started again."""
    (tmp_path / "a").mkdir()
    names = {
        member_name(Settings(data_dir=directory, worker=Worker(instance=instance)), part)
        for part in ("record", "identify")
        for directory in (tmp_path / "a", tmp_path / "b", tmp_path / "a" / ".." / "b")
        for instance in ("0", "1")
    }
    assert len(names) == 2 * 2 * 2
    assert member_name(Settings(data_dir=tmp_path), "record") is None
