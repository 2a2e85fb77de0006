"""Builds what fetches, decodes and shrinks pictures, with the limits from the settings."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pixtide.schemas.errors import PoisonError, TransientError
from pixtide.schemas.events import PictureAt
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.settings import Settings

if TYPE_CHECKING:
    from pixtide.encoders.pictures.decoder_pool import DecoderPool
    from pixtide.streams.originals.fetcher import Fetcher


def decoder_pool(settings: Settings, processes: int) -> "DecoderPool":
    """Start decoding processes with the settings' limits. Call before making Kafka clients."""
    from pixtide.encoders.pictures.decoder_pool import DecoderPool
    from pixtide.encoders.pictures.images import Limits

    limits = Limits(max_pixels=settings.max_pixels, max_data_bytes=settings.max_picture_bytes)
    decoders = DecoderPool(processes, settings.decode_timeout_s, limits)
    decoders.start()
    return decoders


@contextlib.contextmanager
def thumbnails(settings: Settings, side: int) -> "Iterator[Callable[[str], bytes | None]]":
    """A callable: a URI to a small JPEG of the original, or None if it isn't available."""
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
    """Builds the fetcher that gets pictures from where events say, within the settings' limits."""
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
