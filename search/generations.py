"""A generation: one model's index of the whole log, and its state."""

import re
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field, field_validator

from pixtide.schemas.base import Contract

AttributeType = Literal["text", "number", "boolean", "date"]
#: Compression of vectors in Weaviate: rotational quantization to 8 bits or 1 bit a number, product
#: quantization, or none. The first records call `rq8` just `rq`.
Compression = Literal["rq8", "rq1", "pq", "none"]

#: The allowed names of generations.
NAME = r"[a-z][a-z0-9_]{0,39}"
#: The allowed names of typed attributes.
ATTRIBUTE = r"[a-z][a-z0-9_]{0,59}"
#: The allowed names of collections; LanceDB also uses them as names of a folder and a lock.
COLLECTION = r"[A-Za-z][A-Za-z0-9_]{0,199}"


class LogIdentity(Contract):
    """Identifies the log that an index is built from. Another log needs another generation."""

    topic: str
    topic_id: str
    partitions: int
    epoch: int = 1


class GenerationState(StrEnum):
    """The state of a generation. Which one is live is not stored here: only the alias says that."""

    BUILDING = "building"  # not yet verified that it holds what the log says
    READY = "ready"  # verified: query consumers load its encoder in advance, and it may be promoted
    RETIRED = "retired"  # taken down or being taken down; its name is never used again


class Generation(Contract):
    """The record of a generation, stored with the index.

    `model` is the setting that loads its encoder. `fingerprint` must match before a vector is
    written or searched. `replication` is how many Weaviate nodes keep each row. `attributes` are
    those stored as typed, filterable fields. `previous` was live before this one was promoted; a
    rollback returns to it. `live_until` is when another one took over.
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
        """Whether both are records of the same generation, perhaps from different times."""
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
