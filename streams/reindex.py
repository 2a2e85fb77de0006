"""Creating a generation: from its own start in the log it is built by ordinary ingest workers."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from schemas import topics
from schemas.errors import UsageError
from search.generations import NAME, AttributeType, Compression, Generation
from search.port import GenerationCatalog
from streams import kafka
from streams.settings import Settings
from streams.wiring import load_encoder


def create_generation(
    settings: Settings,
    catalog: GenerationCatalog,
    name: str,
    *,
    model: str,
    compression: Compression = "rq",
    attributes: Mapping[str, AttributeType] | None = None,
) -> Generation:
    """Create an empty generation over today's log; the first one of an index goes live at once.

    The group's position is committed before the record is written, so that no worker of this
    generation ever has to guess where to begin.

    Raises:
        UsageError: the name is taken, the model can't be loaded, or a topic is missing.
        TransientError: a server can't be reached.
    """
    if not re.fullmatch(NAME, name):
        raise UsageError(f"{name!r}: a generation's name is a-z, 0-9 and _, starting with a letter")
    if catalog.get(name) is not None:
        raise UsageError(f"generation {name} exists: choose another name")
    connection = settings.kafka_connection()
    client = kafka.admin(connection)
    log = kafka.log_identity(client, settings.named(topics.UPLOADED))
    encoder = load_encoder(settings, model)
    generation = Generation(
        name=name,
        model=model,
        fingerprint=encoder.fingerprint,
        dimension=encoder.dimension,
        collection=f"images_{name}",
        group=settings.named(f"ingest.{name}"),
        log=log,
        compression=compression,
        attributes=dict(attributes or {}),
        created_at=datetime.now(UTC),
    )
    beginning = kafka.beginnings(client, log.topic, range(log.partitions))
    kafka.commit_beginning(connection, generation.group, log.topic, beginning)
    retries = kafka.retries_of(client, settings.named(topics.RETRY), log)
    # What was tried again so far, the log holds itself, if it still counts.
    so_far = kafka.ends(client, retries.topic, range(retries.partitions))
    kafka.commit_beginning(connection, generation.group, retries.topic, so_far)
    catalog.create(generation)
    if catalog.live() is None:
        catalog.promote(name)
    return generation


def lag_of(settings: Settings, generation: Generation) -> int:
    """How many records of the log its group has not committed yet."""
    connection, log = settings.kafka_connection(), generation.log
    numbers = range(log.partitions)
    committed = kafka.committed_offsets(connection, generation.group, log.topic, numbers)
    ends = kafka.ends(kafka.admin(connection), log.topic, numbers)
    return sum(max(0, end - committed.get(partition, 0)) for partition, end in ends.items())
