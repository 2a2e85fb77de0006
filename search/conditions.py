"""Turns a request's filters into a flat list of typed conditions on stored fields."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from pixtide.schemas.queries import AttributeFilter, Filters, Scalar
from pixtide.search.generations import AttributeType
from pixtide.search.rows import attribute_field, filter_time, is_text, typed_value

Value = str | float | bool | datetime


class Operator(StrEnum):
    """How a field is compared: the first three for lists of texts, the last four for ranges."""

    HAS_ALL = "has_all"
    HAS_ANY = "has_any"
    HAS_NONE = "has_none"
    ONE_OF = "one_of"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"


class Condition(NamedTuple):
    """A field, an operator and the values to compare with: one for a range, else at least one."""

    field: str
    comparison: Operator
    values: tuple[Value, ...]


_RANGED = ("number", "date")
#: No store counts beyond this, so clamping a bound to it changes no result.
_INT64 = 2**63 - 1
_PLAIN: Mapping[str, tuple[str, Operator]] = {
    "tags_all": ("tags", Operator.HAS_ALL),
    "tags_any": ("tags", Operator.HAS_ANY),
    "tags_none": ("tags", Operator.HAS_NONE),
    "formats": ("format", Operator.ONE_OF),
    "orientations": ("orientation", Operator.ONE_OF),
    "uploaded_after": ("uploaded_at", Operator.GTE),
    "uploaded_before": ("uploaded_at", Operator.LT),
    "min_width": ("width", Operator.GTE),
    "max_width": ("width", Operator.LTE),
    "min_height": ("height", Operator.GTE),
    "max_height": ("height", Operator.LTE),
}


def conditions(filters: Filters, declared: Mapping[str, AttributeType]) -> list[Condition]:
    """The filters as conditions, all of which must hold.

    Raises:
        ValueError: an attribute isn't declared, or is compared with a value of the wrong type, or a
            text is not valid Unicode.
    """
    wanted = []
    for name, (field, comparison) in _PLAIN.items():
        given = getattr(filters, name)
        if given is None or given == ():
            continue
        if isinstance(given, datetime):
            given = filter_time(given)
        if isinstance(given, int):
            given = max(-_INT64, min(given, _INT64))
        wanted.append(Condition(field, comparison, given if isinstance(given, tuple) else (given,)))
    for each in filters.attributes:
        wanted += _on_attribute(each, declared)
    for field, _, values in wanted:
        if any(isinstance(value, str) and not is_text(value) for value in values):
            raise ValueError(f"{field}: half of a surrogate pair is no text")
    return wanted


def _on_attribute(
    asked: AttributeFilter, declared: Mapping[str, AttributeType]
) -> Iterator[Condition]:
    name, kind = asked.name, declared.get(asked.name)
    if kind is None:
        known = ", ".join(sorted(declared)) or "none"
        raise ValueError(f"the generation declares no attribute {name!r}; it declares {known}")
    for comparison, given in asked.conditions().items():
        if comparison not in ("eq", "one_of") and kind not in _RANGED:
            raise ValueError(f"attribute {name!r} is a {kind}, which has no order")
        scalars: tuple[Scalar, ...] = given if isinstance(given, tuple) else (given,)
        values = [typed_value(one, kind) for one in scalars]
        known_values = tuple(value for value in values if value is not None)
        if len(known_values) < len(values):
            raise ValueError(f"attribute {name!r} is a {kind}, and {given!r} is none")
        exact = Operator.ONE_OF if comparison == "eq" else Operator(comparison)
        yield Condition(attribute_field(name), exact, known_values)
