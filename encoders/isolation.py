"""One picture that a model fails on doesn't fail its batch-mates."""

import logging

import numpy as np

from pixtide.encoders.port import Encoder, Pixels, Vectors
from pixtide.schemas.errors import FatalError

logger = logging.getLogger(__name__)


def encode_each(encoder: Encoder, pixels: Pixels) -> Vectors:
    """Encode uint8 pixels of shape (n, size, size, 3), n ≥ 1, to float32 (n, dimension).

    A batch that fails is halved until the picture stands alone that it fails on; the row of
    that one is NaN. Whether the picture is to blame or the model, a warm-up tells: a device
    that is lost fails at that too.

    Raises:
        TransientError: the device is busy or out of memory.
        FatalError: the model or its device fails whatever the picture.
    """
    try:
        return encoder.encode_pictures(pixels)
    except FatalError as error:
        if len(pixels) > 1:
            half = len(pixels) // 2
            return np.concatenate(
                [encode_each(encoder, pixels[:half]), encode_each(encoder, pixels[half:])]
            )
        encoder.warm_up()
        logger.warning("the model fails on one picture, and on no blank one: %s", error)
        return np.full((1, encoder.dimension), np.nan, np.float32)
