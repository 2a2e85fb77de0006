"""Decoding processes for tests."""

from collections.abc import Iterator
from contextlib import contextmanager

from pixtide.encoders.pictures.decoder_pool import DecoderPool
from pixtide.encoders.pictures.images import Limits

LIMITS = Limits()


@contextmanager
def started(
    limits: Limits = LIMITS, timeout_s: float = 60, workers: int = 1
) -> Iterator[DecoderPool]:
    """A pool of so many, until the end of the block."""
    pool = DecoderPool(workers, timeout_s, limits)
    pool.start()
    try:
        yield pool
    finally:
        pool.close()
