"""Texts that come again have a number, and a number is always the same text."""

from pipeline.agents.words import Words


def test_a_text_gets_its_number_when_it_comes_again() -> None:
    words = Words()
    assert words.shortened("/pricing") == "/pricing"
    assert words.shortened("/pricing") == 1
    assert words.numbers["/pricing"] == words.shortened("/pricing") == 1
    assert words.text(1) == "/pricing"


def test_what_has_no_number_is_itself() -> None:
    words = Words()
    assert [words.text(words.shortened(text)) for text in (None, "", "/")] == [None, "", "/"]


def test_numbers_are_bounded() -> None:
    """However many texts come again, and however many come once."""
    words = Words(most=2)
    for text in ("a", "a", "b", "b", "c", "c", "c"):
        words.shortened(text)
    assert (words.numbers, words.shortened("c"), words.shortened("b")) == ({"a": 1, "b": 2}, "c", 2)


def test_a_text_that_is_rare_is_introduced_anew() -> None:
    words = Words(most=2)
    for text in ("once", "twice", "other", "once"):
        words.shortened(text)
    assert words.shortened("once") == 1
