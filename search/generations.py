"""A generation: one model's index of the whole log."""

import re
from datetime import datetime
from typing import Literal

from pydantic import Field, field_validator

from schemas.base import Contract

AttributeType = Literal["text", "number", "boolean", "date"]
Compression = Literal["rq", "none"]

#: What a generation may be called.
NAME = r"[a-z][a-z0-9_]{0,39}"


class LogIdentity(Contract):
    """Which log an index is a function of. Another log needs another generation."""

    topic: str
    topic_id: str
    partitions: int
    epoch: int = 1


class Generation(Contract):
    """The record of a generation, stored with the index.

    `model` is the setting that loads its encoder; `fingerprint` is what must agree before a
    vector is written or searched. `attributes` are those stored as typed, filterable fields.
    """

    name: str
    model: str
    fingerprint: str
    dimension: int = Field(ge=1)
    collection: str
    group: str
    log: LogIdentity
    compression: Compression = "rq"
    attributes: dict[str, AttributeType] = Field(default_factory=dict)
    created_at: datetime

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not re.fullmatch(NAME, name):
            raise ValueError("a generation's name is a-z, 0-9 and _, starting with a letter")
        return name

    @field_validator("attributes")
    @classmethod
    def _attributes(cls, declared: dict[str, AttributeType]) -> dict[str, AttributeType]:
        for name in declared:
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name):
                raise ValueError(f"attribute {name!r}: a-z, 0-9 and _, starting with a letter")
        return declared
