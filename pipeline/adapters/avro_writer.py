"""Writes Avro binary: one function per type of a schema, put together once (Avro 1.12 specification, "Binary encoding").

Records are given as sequences of values in the order of their fields, which is what our events are; that, and tables
for short integers, makes this several times as fast as a writer that takes dictionaries. Values are trusted to be of
their types: events are valid if they exist.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Writer = Callable[[Any], bytes]
"""Encodes one value of one type."""


def _varint(number: int) -> bytes:
    """An unsigned integer, seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_SHORT = 8192
_SIZES = [_varint(size << 1) for size in range(_SHORT)]
"""A size as it is written before a text or an array of that size."""
_PRESENT_SIZES = [b"\x02" + size for size in _SIZES]
"""The same, after the mark that an optional value is there."""
_LAST_14_BITS = [_varint(bits) for bits in range(1 << 14)]
_NEXT_14_BITS = [bytes((bits & 0x7F | 0x80, bits >> 7 | 0x80)) for bits in range(1 << 14)]
_NULL, _PRESENT, _END = b"\x00", b"\x02", b"\x00"
_BOOLEANS = (b"\x00", b"\x01")


def _long(value: int) -> bytes:
    zigzag = value << 1 if value >= 0 else ~(value << 1)
    if zigzag < 1 << 14:
        return _LAST_14_BITS[zigzag]
    if 1 << 28 <= zigzag < 1 << 42:  # such as times of our days
        return _NEXT_14_BITS[zigzag & 0x3FFF] + _NEXT_14_BITS[zigzag >> 14 & 0x3FFF] + _LAST_14_BITS[zigzag >> 28]
    encoded = b""
    while zigzag >> 14:
        encoded += _NEXT_14_BITS[zigzag & 0x3FFF]
        zigzag >>= 14
    return encoded + _LAST_14_BITS[zigzag]


def _text(value: str) -> bytes:
    encoded = value.encode()
    size = len(encoded)
    return (_SIZES[size] if size < _SHORT else _long(size)) + encoded


def _optional_text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    encoded = value.encode()
    size = len(encoded)
    return (_PRESENT_SIZES[size] if size < _SHORT else _PRESENT + _long(size)) + encoded


_SIMPLE: Mapping[str, Writer] = {"string": _text, "long": _long, "boolean": _BOOLEANS.__getitem__}


def writer(schema: Any) -> Writer:  # noqa: PLR0911 - a table with a row for each kind of type
    """The writer of a type. Knows what our schemas are made of: string, long, boolean, enum, array, record, and ["null", T]."""
    match schema:
        case str() if schema in _SIMPLE:
            return _SIMPLE[schema]
        case ["null", "string"]:
            return _optional_text
        case ["null", other]:
            return _optional(writer(other))
        case {"type": "array", "items": items}:
            return _array(writer(items))
        case {"type": "record", "fields": fields}:
            return _record([writer(field["type"]) for field in fields])
        case {"type": "enum", "symbols": symbols}:
            return {symbol: _long(position) for position, symbol in enumerate(symbols)}.__getitem__
        case {"type": inner}:
            return writer(inner)
    raise NotImplementedError(f"no writer for the Avro type {schema!r}")


def _optional(write: Writer) -> Writer:
    return lambda value: _NULL if value is None else _PRESENT + write(value)


def _array(write: Writer) -> Writer:
    def array(values: Sequence[Any]) -> bytes:
        return _long(len(values)) + b"".join(map(write, values)) + _END if values else _END

    return array


def _record(writers: Sequence[Writer]) -> Writer:
    def record(values: Sequence[Any]) -> bytes:
        return b"".join([write(value) for write, value in zip(writers, values, strict=True)])

    return record
