"""JSON values and events as text and as hashes that depend on nothing but their value.

Two forms, for two purposes:

- the *normal text* of a JSON value is how `properties` is kept. It is exact: names sorted as RFC 8785 sorts them (by
  UTF-16 code units), integers within 64 bits written as digits however they were given (1e3 and 1000.0 are 1000), other
  numbers as their shortest round trip. One mathematical value has one text, and loading the text gives the value.
- the *hashes* are SHA-256 of RFC 8785 canonical JSON, as the spec demands (events.md, "One event id, one event"), where
  every number is a double, written as JavaScript does. So integers from 2**53 on can differ and have one hash.

orjson writes both wherever its output is the same as RFC 8785's, which the tests prove; the `rfc8785` library does the rest.
"""

from collections.abc import Callable
from hashlib import sha256
from operator import attrgetter
from typing import Any, NamedTuple

import orjson
import rfc8785

from pipeline.core.events import NOT_COMPARED, TYPES, Event, JsonText

_EXACT_DOUBLES = 2**53
"""Integers below it (in size) are written alike as integer and as double."""
_INTEGERS = (-(2**63), 2**64)
"""The range of integers in JSON here, the end excluded."""
_SCALARS = {str, bool, type(None)}
_FLAT = {str, bool, type(None), int}


def normal_text(value: object) -> JsonText:
    """The normal text of a JSON value: of an object for `properties`, of any value for a form field that is no string."""
    if type(value) is dict and _FLAT.issuperset(map(type, value.values())):
        return flat_text(value)
    return JsonText(orjson.dumps(_normal(value)).decode())


def flat_text(value: dict[str, str | bool | int | None]) -> JsonText:
    """The normal text of an object in which no value is a number with a fraction or a container."""
    if "".join(value).isascii():
        return JsonText(orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode())
    return JsonText(orjson.dumps(_normal(value)).decode())


def _normal(value: Any) -> Any:
    """The value with sorted names, and with integers for the floats that are integers within 64 bits."""
    if type(value) is dict:
        return {name: _normal(value[name]) for name in sorted(value, key=_utf_16)}
    if type(value) is list:
        return [_normal(item) for item in value]
    if type(value) is float and value.is_integer() and _INTEGERS[0] <= value < _INTEGERS[1]:
        return int(value)
    return value


def _utf_16(name: str) -> bytes:
    return name.encode("utf-16-be")


class _Columns(NamedTuple):
    """Field names of an event type in canonical order, and what reads their values from an event."""

    names: tuple[str, ...]
    values: Callable[[Any], tuple[Any, ...]]


def _columns(kind: type[Event], without: frozenset[str]) -> _Columns:
    names = tuple(sorted({"type", *kind.__struct_fields__} - without))
    return _Columns(names, attrgetter(*names))


_COMPARED = {kind: _columns(kind, NOT_COMPARED) for kind in TYPES.values()}
_WHOLE = {kind: _columns(kind, frozenset()) for kind in TYPES.values()}


def compared_fields(event: Event) -> dict[str, Any]:
    """The fields that are present and must agree between copies of an event, under their names, as hashable values.

    Equal values mean equal fields: `properties` is its normal text, and `fields` its pairs sorted by name (the values of a
    repeated name stay in their order). A boolean is always present, by its default.
    """
    return compared(event)[0]


def compared_hash(event: Event) -> bytes:
    """SHA-256 of the compared fields as RFC 8785 JSON: what orders the copies of an event."""
    return sha256(_canonical(_present(event, _COMPARED[type(event)]))).digest()


def compared(event: Event) -> tuple[dict[str, Any], bytes]:
    """`compared_fields` and `compared_hash` at once."""
    present = _present(event, _COMPARED[type(event)])
    digest = sha256(_canonical(present)).digest()
    if "fields" in present:
        present["fields"] = tuple(sorted(present["fields"], key=lambda pair: pair[0]))
    return present, digest


def whole_hash(event: Event) -> bytes:
    """SHA-256 of all present fields as RFC 8785 JSON, times in milliseconds: what orders copies of one time."""
    return sha256(_canonical(_present(event, _WHOLE[type(event)]))).digest()


def _present(event: Event, columns: _Columns) -> dict[str, Any]:
    return {name: value for name, value in zip(columns.names, columns.values(event), strict=True) if value is not None}


def _canonical(present: dict[str, Any]) -> bytes:
    """RFC 8785 JSON of an event's fields, whose names are sorted already."""
    properties = present.get("properties")
    fields = present.get("fields")
    if present["portal_id"] >= _EXACT_DOUBLES or (properties is not None and not _is_canonical(properties)):
        return _as_doubles(present)
    if properties is not None:
        present = present | {"properties": orjson.Fragment(properties)}
    if fields is not None:
        present = present | {"fields": _object_of(fields)}
    return orjson.dumps(present)


def _is_canonical(properties: JsonText) -> bool:
    """Whether this normal text is RFC 8785 JSON as it stands: sure if it is flat and has no numbers that JavaScript writes its own way."""
    for value in orjson.loads(properties).values():
        kind = type(value)
        if kind in _SCALARS or (kind is int and -_EXACT_DOUBLES < value < _EXACT_DOUBLES) or (kind is float and 1e-4 < abs(value) < 1e15):
            continue
        return False
    return True


def _object_of(fields: tuple[tuple[str, str], ...]) -> dict[str, str | list[str]]:
    """Form fields as a JSON object, names sorted; a repeated name has the array of its values."""
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    return {name: values[name] if len(values[name]) > 1 else values[name][0] for name in sorted(values, key=_utf_16)}


def _as_doubles(present: dict[str, Any]) -> bytes:
    """RFC 8785 JSON by the book, for numbers that a double does not hold exactly or that JavaScript writes its own way."""
    if "properties" in present:
        present = present | {"properties": orjson.loads(present["properties"])}
    if "fields" in present:
        present = present | {"fields": _object_of(present["fields"])}
    return rfc8785.dumps(_double(present))


def _double(value: Any) -> Any:
    if type(value) is dict:
        return {name: _double(item) for name, item in value.items()}
    if type(value) is list:
        return [_double(item) for item in value]
    if type(value) is int and not -_EXACT_DOUBLES < value < _EXACT_DOUBLES:
        return float(value)
    return value
