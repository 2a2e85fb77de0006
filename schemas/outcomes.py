"""What became of an event: the outcome record, and why a dead letter is one."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from pixtide.schemas.base import Contract
from pixtide.schemas.errors import ReasonCode


class OutcomeKind(StrEnum):
    """Each event ends in exactly one of these, once per generation and source coordinates."""

    INDEXED = "indexed"
    REPLACED = "replaced"
    DELETED = "deleted"
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"
    DEAD_LETTERED = "dead_lettered"


class Outcome(Contract):
    """A record of `images.indexed`.

    Delivered at least once: deduplicate by (generation, topic_id, partition, offset).
    """

    image_id: str
    outcome: OutcomeKind
    generation: str
    topic: str
    topic_id: str
    partition: int
    offset: int
    at: datetime
    reason: ReasonCode | None = None
    message: str | None = None
    took_ms: dict[str, float] = Field(default_factory=dict)


class DeadLetterReason(Contract):
    """Why a record was dead-lettered, and at which step."""

    code: ReasonCode
    stage: str
    exception: str
    message: str
