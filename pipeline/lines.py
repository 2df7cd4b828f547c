"""JSON lines as a file: lines end with LF or CRLF and with nothing else (spec: events.md)."""

from collections.abc import Iterable, Iterator


def numbered_lines(file: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and content, without its end, of each line that is not blank.

    `file` is a binary file or anything else that yields its lines split at LF.
    """
    for number, line in enumerate(file, start=1):
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        if content and not content.isspace():
            yield number, content
