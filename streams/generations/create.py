"""Creates a generation over the current log."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from pixtide.schemas import topics
from pixtide.schemas.errors import UsageError
from pixtide.search.generations import NAME, AttributeType, Compression, Generation
from pixtide.search.port import GenerationCatalog
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.settings import Settings
from pixtide.streams.wiring.adapters import load_encoder


def create_generation(
    settings: Settings,
    catalog: GenerationCatalog,
    name: str,
    *,
    model: str,
    compression: Compression = "rq8",
    attributes: Mapping[str, AttributeType] | None = None,
) -> Generation:
    """Create an empty generation over the current log; the first one of an index goes live at once.

    The group's position is committed before the record is written, so that no worker of this
    generation ever has to guess where to start.

    Raises:
        UsageError: the name is taken, the model can't be loaded, or a topic is missing.
        TransientError: a server can't be reached.
    """
    if not re.fullmatch(NAME, name):
        raise UsageError(f"{name!r}: a generation's name is a-z, 0-9 and _, starting with a letter")
    if catalog.get(name) is not None:
        raise UsageError(f"generation {name} exists: choose another name")
    connection = settings.kafka_connection()
    client = kafka_clients.admin(connection)
    log = kafka_topics.log_identity(client, settings.named(topics.UPLOADED))
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
        replication=settings.index_replication,
        attributes=dict(attributes or {}),
        created_at=datetime.now(UTC),
    )
    beginning = kafka_offsets.beginnings(client, log.topic, range(log.partitions))
    kafka_offsets.commit_beginning(connection, generation.group, log.topic, beginning)
    retries = kafka_topics.retries_of(client, settings.named(topics.RETRY), log)
    # Earlier retries are not needed: the log has their records, if these still count.
    so_far = kafka_offsets.ends(client, retries.topic, range(retries.partitions))
    kafka_offsets.commit_beginning(connection, generation.group, retries.topic, so_far)
    catalog.create(generation)
    if catalog.live() is None:
        catalog.promote(name)
    return generation
