"""What strangers send again and again is looked up, but cannot fill the memory."""

from pipeline.core.caching import remembered


def test_short_texts_are_remembered_and_long_ones_are_not() -> None:
    asked: list[str] = []

    @remembered(2, longest=5)
    def size(text: str) -> int:
        asked.append(text)
        return len(text)

    assert [size(text) for text in ("short", "short", "longer", "longer", "\N{HONEYBEE}", "\N{HONEYBEE}")] == [5, 5, 6, 6, 1, 1]
    assert asked == ["short", "longer", "longer", "\N{HONEYBEE}", "\N{HONEYBEE}"], "one character beyond ASCII may take four bytes"


def test_only_so_many_are_remembered() -> None:
    asked: list[str] = []

    @remembered(2)
    def same(text: str) -> str:
        asked.append(text)
        return text

    assert [same(text) for text in "abcab"] == list("abcab")
    assert asked == ["a", "b", "c", "a", "b"]
