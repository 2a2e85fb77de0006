"""A generation: one model's index of the whole log, and where it stands in its life."""

import re
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field, field_validator

from pixtide.schemas.base import Contract

AttributeType = Literal["text", "number", "boolean", "date"]
#: Of vectors in Weaviate: rotational quantization to 8 bits or 1 bit a number, product
#: quantization, or none. `rq` is what `rq8` was called in the first records.
Compression = Literal["rq8", "rq1", "pq", "none"]

#: What a generation may be called.
NAME = r"[a-z][a-z0-9_]{0,39}"
#: What a typed attribute may be called.
ATTRIBUTE = r"[a-z][a-z0-9_]{0,59}"
#: What its collection may be called: in LanceDB a folder and a lock are called so, too.
COLLECTION = r"[A-Za-z][A-Za-z0-9_]{0,199}"


class LogIdentity(Contract):
    """Which log an index is a function of. Another log needs another generation."""

    topic: str
    topic_id: str
    partitions: int
    epoch: int = 1


class GenerationState(StrEnum):
    """Which of them is live, the alias alone says."""

    BUILDING = "building"  # nobody has verified yet that it holds what the log says
    READY = "ready"  # verified: query consumers load its encoder ahead, and it may be promoted
    RETIRED = "retired"  # taken down or being taken down; its name is never used again


class Generation(Contract):
    """The record of a generation, stored with the index.

    `model` is the setting that loads its encoder; `fingerprint` is what must agree before a
    vector is written or searched. `replication` is how many nodes of Weaviate keep each row.
    `attributes` are those stored as typed, filterable fields.
    `previous` was live when this one was promoted, and is what a rollback returns to;
    `live_until` is when another one took over.
    """

    name: str
    model: str
    fingerprint: str
    dimension: int = Field(ge=1)
    collection: str
    group: str
    log: LogIdentity
    compression: Compression = "rq8"
    replication: int = Field(1, ge=1)
    attributes: dict[str, AttributeType] = Field(default_factory=dict)
    created_at: datetime
    state: GenerationState = GenerationState.BUILDING
    verified_at: datetime | None = None
    previous: str | None = None
    live_until: datetime | None = None

    def is_same(self, other: "Generation | None") -> bool:
        """Whether both are records of one generation, at whatever moments of its life."""
        return other is not None and (self.name, self.created_at) == (other.name, other.created_at)

    @field_validator("compression", mode="before")
    @classmethod
    def _compression(cls, compression: object) -> object:
        return "rq8" if compression == "rq" else compression

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
            if not re.fullmatch(ATTRIBUTE, name):
                raise ValueError(f"attribute {name!r}: a-z, 0-9 and _, starting with a letter")
        return declared
