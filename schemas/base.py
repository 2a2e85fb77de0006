"""The one pydantic configuration all contracts share."""

from collections.abc import Iterable
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError


class Contract(BaseModel):
    """Frozen; unknown fields are refused where we build one and ignored where we read one."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def to_json(self) -> bytes:
        """UTF-8 JSON without the fields that are null."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read leniently: fields of a later version are ignored.

        Raises:
            pydantic.ValidationError: when the JSON or a known field is wrong.
        """
        return cls.model_validate_json(data, extra="ignore")


def explain(error: ValidationError) -> str:
    """One line a person can act on: which field, and what is wrong with it."""

    def lines() -> Iterable[str]:
        for problem in error.errors(include_url=False, include_context=False):
            where = ".".join(str(part) for part in problem["loc"])
            yield f"{where}: {problem['msg']}" if where else problem["msg"]

    return "; ".join(lines())
