"""The topics: one table from which they are created, checked and documented."""

from dataclasses import dataclass
from typing import Literal

DAY_MS = 24 * 60 * 60 * 1000
MiB = 1024 * 1024
#: Room that a dead letter has beyond the largest source record, for its reason headers.
DEAD_LETTER_ROOM = 64 * 1024
#: How long a delete stays visible to a replay, as a tombstone in the log and a row in the index.
DELETE_RETENTION_MS = 30 * DAY_MS


@dataclass(frozen=True)
class Topic:
    """One topic of the contract. `name` is without the namespace prefix.

    `kept_since_arrival`: retention counts from a record's arrival, since by the timestamp that
    it carries, its source's, it may be older than that already.
    """

    name: str
    purpose: str
    key: str
    partitions: int
    cleanup_policy: Literal["compact", "delete"]
    retention_ms: int | None
    max_message_bytes: int
    delete_retention_ms: int | None = None
    kept_since_arrival: bool = False

    def config(self) -> dict[str, str]:
        """The topic's configuration, in Kafka's own names."""
        config = {
            "cleanup.policy": self.cleanup_policy,
            "max.message.bytes": str(self.max_message_bytes),
        }
        if self.retention_ms is not None:
            config["retention.ms"] = str(self.retention_ms)
        if self.delete_retention_ms is not None:
            config["delete.retention.ms"] = str(self.delete_retention_ms)
        if self.kept_since_arrival:
            config["message.timestamp.type"] = "LogAppendTime"
        return config


UPLOADED = "images.uploaded"
RETRY = "images.uploaded.retry"
DEAD_LETTERS = "images.uploaded.dlq"
INDEXED = "images.indexed"
REQUESTS = "search.requests"
REPLIES = "search.replies"


def topics(*, embedded: bool) -> tuple[Topic, ...]:
    """The topics table.

    Args:
        embedded: the one-machine stack: its broker refuses messages over 1 MB and needs no
            more than one minute of requests and replies.
    """
    largest = MiB - DEAD_LETTER_ROOM if embedded else MiB
    exchange_ms = 60_000 if embedded else 600_000
    uploaded = Topic(
        name=UPLOADED,
        purpose="upload and delete events; the index is a function of its latest record per key",
        key="image id",
        partitions=6,
        cleanup_policy="compact",
        retention_ms=None,
        max_message_bytes=largest,
        delete_retention_ms=DELETE_RETENTION_MS,
    )
    return (
        uploaded,
        Topic(
            RETRY,
            "dead letters to try again, under their original version",
            "image id",
            uploaded.partitions,
            "delete",
            14 * DAY_MS,
            largest + DEAD_LETTER_ROOM,
            kept_since_arrival=True,
        ),
        Topic(
            DEAD_LETTERS,
            "records that can't be indexed, as they came, with the reason in headers",
            "image id, as it came",
            uploaded.partitions,
            "delete",
            14 * DAY_MS,
            largest + DEAD_LETTER_ROOM,
            kept_since_arrival=True,
        ),
        Topic(
            INDEXED,
            "what became of each event",
            "image id",
            uploaded.partitions,
            "delete",
            7 * DAY_MS,
            largest,
        ),
        Topic(REQUESTS, "search requests", "any", 6, "delete", exchange_ms, largest),
        Topic(REPLIES, "search replies", "the request's key", 6, "delete", exchange_ms, largest),
    )
