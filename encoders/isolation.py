"""A picture that makes the model fail doesn't fail the rest of its batch."""

import logging

import numpy as np

from pixtide.encoders.port import Encoder, Pixels, Vectors
from pixtide.schemas.errors import FatalError

logger = logging.getLogger(__name__)


def encode_each(encoder: Encoder, pixels: Pixels) -> Vectors:
    """Encode uint8 pixels of shape (n, size, size, 3), n ≥ 1, to float32 (n, dimension).

    A batch that fails is halved until the failing picture is alone; its row becomes NaN. A warm-up
    then shows whether the picture or the model is to blame: on a lost device the warm-up fails,
    too.

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
