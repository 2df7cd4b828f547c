"""Texts that come again and again (addresses, titles, referrers), kept once and named by numbers.

Most of what a site's page views say is the same few hundred texts. Only live memory has numbers; whatever leaves the process has texts.
"""

MOST = 20_000
"""So many texts have numbers; with 150 bytes each, 3 MB."""


class Words:
    """The texts of one partition. A text gets its number when it comes the second time, so that those that never come again get none."""

    def __init__(self, most: int = MOST) -> None:
        self.numbers: dict[str | None, int] = {}
        """From 1 on."""
        self._most = most
        self._texts: list[str] = []
        self._seen: set[int] = set()
        """Hashes of texts that came once; forgotten when they are as many as the numbers can be."""

    def shortened(self, text: str | None) -> str | int | None:
        """Its number, or the text itself if it has none."""
        if text is None or len(self._texts) >= self._most:
            return self.numbers.get(text, text)
        if hash(text) not in self._seen:
            if len(self._seen) >= self._most:
                self._seen.clear()
            self._seen.add(hash(text))
            return text
        if text not in self.numbers:
            self._texts.append(text)
            self.numbers[text] = len(self._texts)
        return self.numbers[text]

    def text(self, shortened: str | int | None) -> str | None:
        """What was shortened."""
        return self._texts[shortened - 1] if isinstance(shortened, int) else shortened
