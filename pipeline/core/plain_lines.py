"""The fast way from a JSON line to an event, for the usual line: no extra fields, flat properties, nothing to refuse.

msgspec reads a line into a struct made from the table of fields and checks all types on the way, twice as fast as a
parser that makes a dict; what is left are the same normalisers. It is used only where it is sure to agree with the general
way (a test compares the two): anything unusual is None here, which means "ask `parsing`", and never a refusal.
"""

from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

import msgspec

from pipeline.core import normalise
from pipeline.core.caching import remembered
from pipeline.core.canonical import flat_text
from pipeline.core.events import TYPES, Event
from pipeline.core.shapes import ONE_OF, PROPERTIES, SHAPES, Rule

_SETTLED = (normalise.text, normalise.switch)
"""For these values the JSON type is all there is to check."""


class _Plan(NamedTuple):
    """How to make an event from the values of its struct, which are in the order of its class."""

    make: Callable[..., Event]
    steps: tuple[tuple[int, Callable[[Any], object]], ...]
    """Positions of the fields that msgspec alone does not settle, and what makes their normal form."""
    required: tuple[int, ...]


def plain_event(line: bytes) -> Event | None:
    """The event of a plain JSON line; None if the line is unusual in any way, wrong ones included."""
    try:
        struct = _decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return _event(_PLANS[type(struct)], msgspec.structs.astuple(struct))


def plain_values(type_name: str, values: tuple[Any, ...]) -> Event | None:
    """The event of values in the order of its class, of the JSON types that a plain line has; None if one is unusual, as above."""
    return _event(_PLANS[_STRUCTS[type_name]], values)


def _event(plan: _Plan, values: tuple[Any, ...]) -> Event | None:
    if "" in values:
        values = tuple([None if value == "" else value for value in values])
        if any(values[position] is None for position in plan.required):
            return None
    for position, normalised in plan.steps:
        value = values[position]
        if value is not None:
            normal = normalised(value)
            if normal is None:
                return None
            if normal != value:
                values = (*values[:position], normal, *values[position + 1 :])
    return plan.make(*values)


def _struct(type_name: str, rules: dict[str, Rule]) -> type[msgspec.Struct]:
    """A struct with the fields of the event's class, in its order, with the JSON types of usual values."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for name in TYPES[type_name].__struct_fields__:
        rule = rules.get(name)
        if rule is None:
            fields.append((name, None, None))
        elif rule.required:
            fields.append((name, rule.plain))
        else:
            fields.append((name, rule.plain if rule.default is not None else rule.plain | None, rule.default))
    return msgspec.defstruct(type_name, fields, tag_field="type", tag=type_name, forbid_unknown_fields=True, kw_only=True, gc=False)


def _plan(type_name: str, rules: dict[str, Rule]) -> _Plan:
    kind = TYPES[type_name]
    positions = [(position, rules[name]) for position, name in enumerate(kind.__struct_fields__) if name in rules]
    return _Plan(
        kind,
        tuple((position, _normaliser(rule)) for position, rule in positions if rule.normalised not in _SETTLED),
        tuple(position for position, rule in positions if rule.required),
    )


def _normaliser(rule: Rule) -> Callable[[Any], object]:
    """The rule's, for a value of its usual type; cookies and addresses come again and again, so that looking them up is faster."""
    if rule is PROPERTIES:
        return _properties
    return _CACHED.get(rule.normalised, rule.normalised)


_CACHED: dict[Callable[[Any], object], Callable[[Any], object]] = {
    normaliser: remembered(8_192)(normaliser) for normaliser in (normalise.utk, normalise.url, normalise.email)
}


def _properties(value: dict[str, str | bool | int | None]) -> str | None:
    return flat_text(value) if value else None


# A type with a rule beyond its single fields, or with form fields, goes the general way: few events are of these types.
_STRUCTS = {name: _struct(name, rules) for name, rules in SHAPES.items() if "properties" in rules and name not in ONE_OF}
_PLANS = {struct: _plan(name, SHAPES[name]) for name, struct in _STRUCTS.items()}
_decode = msgspec.json.Decoder(reduce(or_, _STRUCTS.values())).decode
