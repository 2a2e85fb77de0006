"""The one pydantic configuration all contracts share."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

#: Of what is wrong, so many mistakes are told, each at this length.
_TOLD, _LENGTH = 3, 200

#: Texts as a list. The first that is wrong ends the look at it: a list of half a million mistakes
#: would take a minute to tell.
Texts = Annotated[tuple[str, ...], FailFast()]
#: The same of at most a hundred, each of at most a thousand characters.
FewTexts = Annotated[
    tuple[Annotated[str, Field(max_length=1000)], ...], Field(max_length=100), FailFast()
]


class Contract(BaseModel):
    """Frozen; unknown fields are refused where we build one and ignored where we read one.

    Numbers that JSON can't write, infinities and NaN, are written as null.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    def to_json(self) -> bytes:
        """UTF-8 JSON without the fields that are null."""
        try:
            return self.model_dump_json(exclude_none=True).encode()
        except ValueError:  # half a surrogate pair, which UTF-8 has no bytes for
            fields = self.model_dump(exclude_none=True)
            whole = type(self).model_construct(**without_surrogates(fields))
            return whole.model_dump_json(exclude_none=True, warnings=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read leniently: fields of a later version are ignored.

        Raises:
            pydantic.ValidationError: when the JSON or a known field is wrong.
        """
        return cls.model_validate_json(data, extra="ignore")


def explain(error: ValidationError) -> str:
    """One line a person can act on: which field, and what is wrong with it.

    The first few mistakes are told; a list of a million would explain nothing.
    """
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    lines = []
    for problem in problems[:_TOLD]:
        where = shortened(".".join(str(part) for part in problem["loc"]))
        told = shortened(problem["msg"])
        lines.append(f"{where}: {told}" if where else told)
    if len(problems) > _TOLD:
        lines.append(f"and {len(problems) - _TOLD} more")
    return "; ".join(lines)


def shortened(text: str, most: int = _LENGTH) -> str:
    """The text, or its beginning where it is longer than so many characters."""
    return text if len(text) <= most else f"{text[:most]}…"


def without_surrogates(value: Any) -> Any:
    """The same with U+FFFD for each half of a surrogate pair, keys included."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_surrogates(held) for held in value)
    return value
