"""What each process may do on Kafka, and no more: the grants for a secured cluster."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pixtide.schemas import topics

#: librdkafka requires a group for every consumer; nothing is committed under this one.
NO_GROUP = "pixtide.none"
Operation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs", "Delete"]
_LOOK_AFTER: tuple[Operation, ...] = ("Create", "Describe", "DescribeConfigs")


@dataclass(frozen=True)
class Grant:
    """Allowed operations on a topic or a group; if `prefixed`, on all whose names begin like that.

    In Kafka, Read and Write imply Describe.
    """

    operations: tuple[Operation, ...]
    resource: Literal["topic", "group"]
    name: str
    prefixed: bool = False

    def command(self, principal: str) -> str:
        """The options of `kafka-acls.sh` that create this grant."""
        operations = " ".join(f"--operation {operation}" for operation in self.operations)
        pattern = " --resource-pattern-type prefixed" if self.prefixed else ""
        return (
            f"--add --allow-principal User:{principal} {operations} "
            f"--{self.resource} {self.name}{pattern}"
        )


def grants(named: Callable[[str], str] = str) -> dict[str, tuple[Grant, ...]]:
    """The grants of each process; `named` puts a name into a namespace.

    `publisher` sends events and reads their outcomes. `client` searches. `web` is the web page.
    `operator` runs the commands that manage topics, generations and dead letters. `scaler` adds and
    removes workers by their lag.
    """

    def read(topic: str) -> Grant:
        return Grant(("Read",), "topic", named(topic))

    def write(topic: str) -> Grant:
        return Grant(("Write",), "topic", named(topic))

    def group(operation: Operation, name: str, *, prefixed: bool = False) -> Grant:
        return Grant((operation,), "group", name, prefixed)

    generations = named("ingest.")
    no_group = group("Describe", NO_GROUP)
    every = [topic.name for topic in topics.topics(embedded=False)]
    return {
        "ingest": (
            read(topics.UPLOADED),
            read(topics.RETRY),
            write(topics.DEAD_LETTERS),
            write(topics.INDEXED),
            group("Read", generations, prefixed=True),
        ),
        "query": (
            read(topics.REQUESTS),
            Grant(("Write",), "topic", named(topics.REPLIES), prefixed=True),
            group("Read", named("query")),
        ),
        "publisher": (write(topics.UPLOADED), read(topics.INDEXED), no_group),
        "client": (write(topics.REQUESTS), read(topics.REPLIES), no_group),
        "web": (
            write(topics.REQUESTS),
            read(topics.REPLIES),
            write(topics.UPLOADED),
            read(topics.INDEXED),
            read(topics.DEAD_LETTERS),
            write(topics.RETRY),
            group("Describe", generations, prefixed=True),
            no_group,
        ),
        "operator": (
            *(Grant(_LOOK_AFTER, "topic", named(topic)) for topic in every),
            read(topics.UPLOADED),
            read(topics.DEAD_LETTERS),
            Grant(("Read", "Write"), "topic", named(topics.RETRY)),  # a generation starts there
            write(topics.DEAD_LETTERS),  # a repair runs a worker
            write(topics.INDEXED),
            Grant(("Read", "Delete"), "group", generations, prefixed=True),
            group("Describe", named("query")),  # whether it has members
            no_group,
        ),
        "scaler": (
            *(
                Grant(("Describe",), "topic", named(topic))
                for topic in (topics.UPLOADED, topics.RETRY, topics.REQUESTS)
            ),
            group("Describe", generations, prefixed=True),
            group("Describe", named("query")),
        ),
    }
