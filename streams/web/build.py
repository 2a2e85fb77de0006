"""Puts the page together from the settings."""

from functools import partial
from pathlib import Path

from pixtide.schemas import topics
from pixtide.streams.generations.status import Watch
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.publish.publisher import Publisher
from pixtide.streams.settings import Settings
from pixtide.streams.web.app import Site, SiteParts
from pixtide.streams.web.dead_letters import DeadLetterApi
from pixtide.streams.web.guard import Access
from pixtide.streams.web.live_index import LiveIndex
from pixtide.streams.web.outcomes import Outcomes
from pixtide.streams.web.pictures import PictureLanes, Pictures
from pixtide.streams.web.publishing import DELIVER_S, QUEUE_BYTES, Publishing, UploadLanes
from pixtide.streams.web.rates import Rate
from pixtide.streams.web.readiness import PartsWatch
from pixtide.streams.web.searching import Searches
from pixtide.streams.web.session import Session
from pixtide.streams.web.status import StatusApi
from pixtide.streams.web.thumbnails import Thumbnails
from pixtide.streams.wiring.adapters import open_catalog
from pixtide.streams.wiring.clients import async_search_client, dead_letters, retrier
from pixtide.streams.wiring.pictures import decoder_pool, picture_fetcher

#: Longer than any search takes; then the page says that nobody answers.
_PATIENCE_S = 6.0
#: What a form has around its picture.
_FORM_BYTES = 64 * 1024
_SIGN_INS_PER_MINUTE = 10
#: For what is shown and, apart from them, for what is uploaded: neither can take the other's.
_DECODERS = 2
#: Originals of the largest size that may be on their way to readers.
_ORIGINALS = 4


def build_site(settings: Settings, thumbnails: Path) -> Site:
    """The page, keeping thumbnails in that empty folder.

    Raises:
        UsageError: a setting or a package is missing.
        TransientError: the index can't be reached.
    """
    connection, read_only = settings.kafka_connection(), settings.web_read_only
    uploaded = settings.named(topics.UPLOADED)
    # before any Kafka client: see encoders/pictures/decoder_pool.py
    decoders, upload_decoders = (decoder_pool(settings, _DECODERS) for _ in range(2))
    access = _access(settings)
    catalog = open_catalog(settings)
    index = LiveIndex(catalog)
    fetcher = picture_fetcher(settings, ImageStore(settings.image_store_url))
    small = Thumbnails(thumbnails, settings.web_cache_bytes)
    lanes = PictureLanes(_DECODERS, _ORIGINALS * settings.max_picture_bytes)
    outcomes = Outcomes(connection, settings.named(topics.INDEXED), small.forget)
    publishing = Publishing(
        lambda: Publisher(settings, **kafka_clients.gives_up(DELIVER_S, QUEUE_BYTES)),
        upload_decoders,
        Rate("uploads and deletes", settings.web_uploads_per_minute),
        UploadLanes(_DECODERS, access.max_body),
        max_bytes=settings.web_upload_bytes,
        read_only=read_only,
    )
    ready = PartsWatch(
        {
            "the index": index.probe,
            "the log": partial(
                kafka_topics.partitions_of, kafka_clients.admin(connection), uploaded
            ),
        }
    )
    return Site(
        SiteParts(
            access=access,
            index=index,
            searches=Searches(
                partial(async_search_client, settings, timeout_s=_PATIENCE_S),
                Rate("searches", settings.web_searches_per_minute),
                patience_s=2 * _PATIENCE_S,
            ),
            pictures=Pictures(index, fetcher, decoders, small, lanes),
            publishing=publishing,
            outcomes=outcomes,
            status=StatusApi(index, Watch(settings, catalog).look, ready, read_only=read_only),
            dead_letters=DeadLetterApi(
                partial(dead_letters, settings),
                partial(retrier, settings),
                decoders,
                lanes.decoding,
                Rate("retries", settings.web_uploads_per_minute),
                most_bytes=settings.max_picture_bytes,
                read_only=read_only,
            ),
            session=Session(access, Rate("attempts", _SIGN_INS_PER_MINUTE)),
        )
    )


def _access(settings: Settings) -> Access:
    token = settings.web_token
    return Access(
        hosts=frozenset(host.lower() for host in settings.web_hosts),
        token=token.get_secret_value() if token else None,
        max_body=settings.web_upload_bytes + _FORM_BYTES,
    )
