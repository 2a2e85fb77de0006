"""Checks the decoder and the model with a picture of our own."""

import io
from functools import cache

import numpy as np
from PIL import Image

from pixtide.encoders.isolation import encode_each
from pixtide.encoders.pictures.decoder_pool import DecoderPool
from pixtide.encoders.port import Encoder
from pixtide.schemas.errors import FatalError


def check_parts(decoders: DecoderPool, encoder: Encoder) -> str | None:
    """What is wrong with the decoder or the model; None if both work.

    Raises:
        FatalError: the device is lost.
    """
    part = "the decoder"
    try:
        pixels = decoders.decode(_picture(), encoder.crop).pixels
        part = "the model"
        [vector] = encode_each(encoder, np.stack([pixels]))
    except FatalError:
        raise
    except Exception as error:  # noqa: BLE001  # any error is the answer
        return f"{part}: {type(error).__name__}: {error}"
    return None if np.isfinite(vector).all() else "the model makes no vector of a picture"


@cache
def _picture() -> bytes:
    shades = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(shades).save(file, "JPEG")
    return file.getvalue()
