"""Where the parts are put together: the only file that names adapters."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pixtide.schemas import topics
from pixtide.schemas.errors import FatalError, PoisonError, TransientError, UsageError
from pixtide.schemas.events import PictureAt
from pixtide.schemas.reply_address import CLIENT_TIMEOUT_S
from pixtide.search.generations import Generation, GenerationState
from pixtide.search.port import GenerationCatalog
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.settings import Settings

if TYPE_CHECKING:
    from pixtide.encoders.pictures.decoder_pool import DecoderPool
    from pixtide.encoders.port import Encoder
    from pixtide.streams.client.asynchronous import AsyncSearchClient
    from pixtide.streams.client.blocking import SearchClient
    from pixtide.streams.dead_letters.letters import DeadLetters
    from pixtide.streams.dead_letters.retry import Retrier
    from pixtide.streams.originals.fetcher import Fetcher


#: What is said of a generation whose model's files or preprocessing are not those of today.
OTHER_MODEL = "was made with the fingerprint"
#: Records in flight where no setting says how many, and batches of them at the least.
_RECORDS, _BATCHES = 256, 4


def open_catalog(settings: Settings) -> GenerationCatalog:
    """The index: Weaviate where its address is set, else LanceDB in the home."""
    if settings.weaviate_url is None:
        with extra("embedded"):
            from pixtide.search.lancedb.catalog import LanceCatalog

        return LanceCatalog(folder=settings.home / "index" / (settings.namespace or "default"))
    # Authlib, which weaviate-client imports, insists on telling users about its own future.
    with extra("weaviate"), warnings.catch_warnings(record=True):
        from pixtide.search.weaviate.catalog import WeaviateCatalog

    key = settings.weaviate_api_key
    return WeaviateCatalog(
        http_url=settings.weaviate_url,
        grpc_port=settings.weaviate_grpc_port,
        api_key=key.get_secret_value() if key else None,
        ca_file=settings.weaviate_ca_file,
        namespace=settings.namespace,
    )


def load_encoder(settings: Settings, model: str) -> "Encoder":
    """The encoder that a model setting names."""
    # Before torch is imported. Threads that spin while they wait take the cores from the other
    # processes here: two of them on two busy cores made a text of 8 ms take half a second.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if settings.threads:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    if model == "starter":
        with extra("starter"):
            from pixtide.encoders.starter import StarterEncoder

        return StarterEncoder.load(
            device=settings.device, precision=settings.precision, batch_size=settings.batch_size
        )
    with extra("worker"):
        from pixtide.encoders.open_clip.encoder import OpenClipEncoder

    return OpenClipEncoder.load(
        model,
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.batch_size,
        compiled=settings.compile,
    )


def threads_of(settings: Settings) -> int:
    """How many cores the encoder may use, where it computes on the processor."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    capped = int(told) if told.isdigit() else 0
    return settings.threads or capped or len(os.sched_getaffinity(0))


def records_of(settings: Settings) -> int:
    """How many records an ingest worker takes on: some are decoded while others are encoded."""
    return settings.in_flight_records or max(_RECORDS, _BATCHES * settings.batch_size)


def encoder_of(settings: Settings, generation: Generation) -> "Encoder":
    """The encoder of a generation.

    Raises:
        FatalError: its model isn't the one that the generation was made with.
        UsageError: it can't be loaded.
    """
    from pixtide.encoders.port import is_eight_bit

    eight_bit = is_eight_bit(generation.fingerprint)
    if eight_bit != (settings.precision == "int8"):  # the index's vectors decide, not the setting
        settings = settings.changed(precision="int8" if eight_bit else "auto")
    encoder = load_encoder(settings, generation.model)
    check_fingerprint(encoder, generation)
    return encoder


def generation_to_work_for(catalog: GenerationCatalog, name: str | None) -> Generation:
    """The generation of that name, or the live one.

    Raises:
        UsageError: there is none, or it is retired.
    """
    generation = catalog.get(name) if name else catalog.live()
    if generation is None:
        which = f"no generation {name}" if name else "no generation is live"
        raise UsageError(f"{which}: run `pixtide index create {name or 'v1'}`")
    if generation.state is GenerationState.RETIRED:
        raise UsageError(f"generation {generation.name} is retired")
    return generation


def decoder_pool(settings: Settings, processes: int) -> "DecoderPool":
    """Decoding processes under these settings' limits, started; before any Kafka client."""
    from pixtide.encoders.pictures.decoder_pool import DecoderPool
    from pixtide.encoders.pictures.images import Limits

    limits = Limits(max_pixels=settings.max_pixels, max_data_bytes=settings.max_picture_bytes)
    decoders = DecoderPool(processes, settings.decode_timeout_s, limits)
    decoders.start()
    return decoders


def dead_letters(settings: Settings) -> "DeadLetters":
    """The dead letters; close them after use."""
    from pixtide.streams.dead_letters.letters import DeadLetters

    return DeadLetters(
        connection=settings.kafka_connection(),
        topic=settings.named(topics.DEAD_LETTERS),
        catalog=open_catalog(settings),
        store=ImageStore(settings.image_store_url),
    )


def retrier(settings: Settings, letters: "DeadLetters") -> "Retrier":
    """What sends those letters to the retry topic."""
    from pixtide.streams.dead_letters.retry import Retrier

    connection = settings.kafka_connection()
    largest = max(t.max_message_bytes for t in topics.topics(embedded=settings.embedded_log))
    return Retrier(
        letters,
        kafka_clients.producer(connection, linger_ms=5, max_bytes=largest),
        connection=connection,
        dead_letters_topic=settings.named(topics.DEAD_LETTERS),
        retry_topic=settings.named(topics.RETRY),
    )


@contextlib.contextmanager
def thumbnails(settings: Settings, side: int) -> "Iterator[Callable[[str], bytes | None]]":
    """A callable that makes a small JPEG of the original at a URI, None where it can't be had."""
    from pixtide.streams.originals.fetcher import OriginalGoneError

    decoders = decoder_pool(settings, settings.decoders)
    fetcher = picture_fetcher(settings, ImageStore(settings.image_store_url))

    def thumbnail(uri: str) -> bytes | None:
        try:
            return decoders.thumbnail(fetcher.fetch(PictureAt(uri=uri)), side)
        except (PoisonError, TransientError, OriginalGoneError):
            return None

    with contextlib.closing(decoders), contextlib.closing(fetcher):
        yield thumbnail


def picture_fetcher(settings: Settings, store: ImageStore) -> "Fetcher":
    """What gets pictures from where their events say, under these settings' limits."""
    from pixtide.streams.originals.fetcher import Fetcher, FetchLimits

    limits = FetchLimits(
        max_bytes=settings.max_picture_bytes,
        timeout_s=settings.fetch_timeout_s,
        roots=settings.roots,
        allowed_hosts=frozenset(settings.allowed_hosts),
        allowed_buckets=frozenset(settings.allowed_buckets),
        give_up_s=settings.fetch_give_up_s,
    )
    return Fetcher(store, limits)


def search_client(settings: Settings, *, timeout_s: float = CLIENT_TIMEOUT_S) -> "SearchClient":
    """A client of the search service that these settings reach."""
    from pixtide.streams.client.blocking import SearchClient

    return SearchClient(
        settings.kafka_connection(),
        request_topic=settings.named(topics.REQUESTS),
        reply_topic=settings.named(topics.REPLIES),
        timeout_s=timeout_s,
    )


def async_search_client(
    settings: Settings, *, timeout_s: float = CLIENT_TIMEOUT_S
) -> "AsyncSearchClient":
    """Its twin for asyncio."""
    from pixtide.streams.client.asynchronous import AsyncSearchClient

    return AsyncSearchClient(
        settings.kafka_connection(),
        request_topic=settings.named(topics.REQUESTS),
        reply_topic=settings.named(topics.REPLIES),
        timeout_s=timeout_s,
        rests=settings.embedded_log,
    )


def check_fingerprint(encoder: "Encoder", generation: Generation) -> None:
    """Raises FatalError where vectors of this encoder don't belong into that collection."""
    if encoder.fingerprint != generation.fingerprint:
        raise FatalError(
            f"model {generation.model} has the fingerprint {encoder.fingerprint}, and generation "
            f"{generation.name} {OTHER_MODEL} {generation.fingerprint}: the model's files changed, "
            "or what pixtide does to pictures did. What made it still serves it; here build the "
            f"index anew from the log: pixtide reindex --model {generation.model}"
        )


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a package that is not installed into what to do about it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: pip install 'pixtide[{name}]'") from error
