"""From a record to an event or a refusal (spec: events.md, "Fields" and "Refused records").

`SHAPES` says what each type of event consists of; everything else here reads that table. The steps are the spec's order of
reasons: size, JSON, type, required fields, and then the fields one by one in the order of the reasons that they can give.
Nothing here raises, whatever the input; a refusal's detail names the field and what is expected, never the value, which may
be personal.

Choices where the spec is silent:
- A name that stands twice in an object counts as its last value. The bounds on numbers and nesting hold for all that the
  line contains, an overwritten value included.
- An integer is a number without fraction and exponent: 1e30 is no integer beyond 64 bits but a double.
- Null, "" and {} are absent as values of fields and extras. Inside `properties` and `fields` they say something, and stay.
- A type that is there but no string is unknown; 7.0, "7" and true are no integers; a wrong value of a text is `invalid_field`,
  of another kind the reason of that kind (an email that is no string: `invalid_email`).
- An extra keeps its value as it is: an `email` in a page view is not looked at. So is a `utk` in a contact import, which has none.
- A line is too large also if the texts of its event are (1e18 has four characters, and its normal form nineteen): the event
  would not fit into a record.
"""

import re
from collections.abc import Callable, Collection, Mapping
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import orjson

from pipeline.core.canonical import normal_text
from pipeline.core.events import TYPES, Event, FormSubmission
from pipeline.core.outcomes import Reason, Refused
from pipeline.core.plain_lines import plain_event
from pipeline.core.shapes import ONE_OF, SHAPES, Rule

MAX_BYTES = 1_000_000
"""Size limit of a line without its end, and of the texts of an event together."""
MAX_NESTING = 100
"""Objects and arrays that may be open at once, the line's own object included."""

_REASONS = list(Reason)


class _Plan(NamedTuple):
    """A shape as the parser uses it."""

    make: Callable[..., Event]
    blank: dict[str, Any]
    """Every field of the class, in its order, with what it is when it is absent."""
    required: tuple[str, ...]
    steps: tuple[tuple[str, Rule], ...]
    """Fields in the order of the reasons that they can give."""


def _plan(type_name: str, rules: dict[str, Rule]) -> _Plan:
    kind = TYPES[type_name]
    return _Plan(
        kind,
        {name: rules[name].default if name in rules else None for name in kind.__struct_fields__},
        tuple(name for name, rule in rules.items() if rule.required),
        tuple(sorted(rules.items(), key=lambda item: _REASONS.index(item[1].reason or Reason.INVALID_FIELD))),
    )


_PLANS = {type_name: _plan(type_name, rules) for type_name, rules in SHAPES.items()}


def parse_line(line: bytes) -> Event | Refused:
    """The event that a JSON line, without its line end, stands for, or why there is none."""
    if len(line) > MAX_BYTES:
        return Refused(Reason.TOO_LARGE, f"the line: expected at most {MAX_BYTES} bytes")
    return plain_event(line) or parse_any_line(line)


def parse_any_line(line: bytes) -> Event | Refused:
    """As `parse_line` for a line of at most a million bytes, but without the fast way, with which it agrees."""
    try:
        given = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Refused(Reason.MALFORMED_JSON, f"the line: expected JSON in UTF-8: {error}")
    if type(given) is not dict:
        return Refused(Reason.MALFORMED_JSON, "the line: expected a JSON object")
    if beyond := _beyond_bounds(line):
        return Refused(Reason.MALFORMED_JSON, f"the line: {beyond}")
    type_name = given.pop("type", None)
    if _is_absent(type_name):
        return Refused(Reason.MISSING_FIELD, f"type: required, one of {', '.join(SHAPES)}")
    event = _event(type_name, given)
    if len(line) > _COULD_GROW_TOO_LARGE and isinstance(event, Event) and _size(event) > MAX_BYTES:
        return Refused(Reason.TOO_LARGE, f"the texts of the event: expected at most {MAX_BYTES} bytes in normal form")
    return event


def parse_avro(type_name: str, raw: Mapping[str, object]) -> Event | Refused:
    """The event that a record decoded from Avro stands for, by the same rules.

    Absent fields are None or missing; `properties` is JSON text; `fields` a list of {"name", "value"}. Unknown names are
    extras, as in a line. The size of the record is the caller's to check.
    """
    given = {name: value for name, value in raw.items() if name != "type"}
    rules = SHAPES.get(type_name, {})
    if "properties" in rules and type(text := given.get("properties")) is str:
        given["properties"] = _loaded(text)
    if "fields" in rules and type(listed := given.get("fields")) is list:
        given["fields"] = _listed(listed)
    try:
        return _event(type_name, given)
    except TypeError:
        return Refused(Reason.INVALID_FIELD, "extra fields: expected values that JSON can hold")


def _loaded(text: str) -> object:
    """The object that a JSON text holds, or the text if it holds none."""
    try:
        utf_8 = text.encode()
        value = orjson.loads(utf_8)
    except ValueError:
        return text
    return text if type(value) is not dict or _beyond_bounds(utf_8) else value


def _listed(listed: list[Any]) -> object:
    """The pairs of an Avro list of names and values, None if it is empty, or the list if it is something else."""
    try:
        pairs = tuple((entry["name"], entry["value"]) for entry in listed)
    except (KeyError, TypeError):
        return listed
    return pairs or None if all(type(name) is str for name, _ in pairs) else listed


def _event(type_name: object, given: dict[str, Any]) -> Event | Refused:
    """The event of this type with the given fields, absent ones among them."""
    if not isinstance(type_name, str) or type_name not in _PLANS:
        return Refused(Reason.UNKNOWN_TYPE, f"type: expected one of {', '.join(SHAPES)}")
    plan = _PLANS[type_name]
    extras = {name: value for name, value in given.items() if value or not _is_absent(value)}
    if missing := _missing(type_name, extras):
        return Refused(Reason.MISSING_FIELD, f"{', '.join(missing)}: required in {type_name}")
    values = plan.blank.copy()
    for name, rule in plan.steps:
        if name in extras:
            values[name] = rule.normalised(extras.pop(name))
            if values[name] is None and rule.reason is not None:
                return Refused(rule.reason, f"{name}: expected {rule.expected}")
    if "fields" in values:
        values["fields"] = _texts(values["fields"] or (), extras)
    elif properties := extras | (values["properties"] or {}):
        values["properties"] = normal_text(properties)
    return plan.make(*values.values())


def _is_absent(value: object) -> bool:
    return value is None or value in ("", {})


def _missing(type_name: str, present: Collection[str]) -> list[str]:
    """The fields that such an event needs and has not."""
    missing = [name for name in _PLANS[type_name].required if name not in present]
    choice = ONE_OF.get(type_name, ())
    if choice and not any(name in present for name in choice):
        missing.append(" or ".join(choice))
    return missing


def _texts(pairs: tuple[tuple[str, Any], ...], extras: dict[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """Form fields and, after them, extras of other names; a value that is no string becomes its JSON text."""
    if extras:
        names = {name for name, _ in pairs}
        pairs += tuple(extra for extra in extras.items() if extra[0] not in names)
    return tuple((name, value if type(value) is str else normal_text(value)) for name, value in pairs) or None


_DIGITS_TO_ZERO = bytes(ord("0") if byte in b"0123456789" else byte for byte in range(256))
_MANY_DIGITS = b"0" * 19
_JSON_TOKEN = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?P<open>[\[{])|(?P<close>[\]}])|(?P<integer>-?[0-9]++(?![.eE]))|-?[0-9][0-9.eE+-]*+'
)


def _beyond_bounds(text: bytes) -> str | None:
    """What is beyond our bounds in JSON text that orjson reads all the same: deep nesting, integers beyond 64 bits.

    An integer of fewer than 19 digits is within 64 bits, so most lines need no closer look.
    """
    if _MANY_DIGITS not in text.translate(_DIGITS_TO_ZERO) and text.count(b"{") + text.count(b"[") <= MAX_NESTING:
        return None
    depth = 0
    for token in _JSON_TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "integer" and not _is_64_bit(token.group()):
            return "expected integers within 64 bits"
        depth += (kind == "open") - (kind == "close")
        if depth > MAX_NESTING:
            return f"expected at most {MAX_NESTING} levels of nesting"
    return None


def _is_64_bit(digits: bytes) -> bool:
    return len(digits) <= 20 and -(2**63) <= int(digits) < 2**64


_COULD_GROW_TOO_LARGE = MAX_BYTES // 5
"""A number's normal form is at most five times as long (1e19), and no string's is longer."""


def _size(event: Event) -> int:
    """UTF-8 bytes of the event's texts."""
    texts = [value for value in msgspec.structs.astuple(event) if type(value) is str]
    pairs = event.fields if isinstance(event, FormSubmission) and event.fields else ()
    return sum(len(text.encode()) for text in [*texts, *chain.from_iterable(pairs)])
