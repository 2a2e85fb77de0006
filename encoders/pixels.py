"""The pinned conversions: a decoded picture of any mode to RGB, and RGB to a model's square.

Vectors depend on every line here: change what comes out, and change `PREPROCESSING` with it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.port import Crop

#: The version of what is done to pixels; part of every model's fingerprint.
PREPROCESSING = "pixels-v2"

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def rgb_of(image: Image.Image) -> Image.Image:
    """Convert to mode RGB; transparent pixels are shown on white, colour profiles are ignored.

    Raises:
        ValueError: for a mode that Pillow can't convert.
    """
    if image.mode.startswith(("I", "F")):
        image = _grey(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    see_through = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(see_through, mask=see_through.getchannel("A"))
    return white


def _grey(image: Image.Image) -> Image.Image:
    """16-bit and deeper grey to 8 bits: integers from 0..65535, floats from their own range."""
    values: NDArray[np.floating[Any]] = np.asarray(image, dtype=np.float32)
    values = np.nan_to_num(values, posinf=0, neginf=0)
    if image.mode == "F":
        low, high = values.min(), values.max()
        values = (values - low) / (high - low or 1) * 255
    else:
        values = values / 257
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def cut(image: Image.Image, crop: Crop) -> Image.Image:
    """Resize and cut RGB as open_clip 3.3.0's `image_transform(is_train=False)` does.

    The roundings are its and torchvision's: the long side is cut off to whole pixels, centres
    round half to even, and padding puts the odd pixel right and below. What is cut off is not
    computed; what stays may be rounded the other way.
    """
    width, height = image.size
    if crop.mode == "squash":
        target = (crop.resize, crop.resize)
    elif crop.mode == "longest":
        ratio = max(width, height) / crop.resize
        target = (max(1, round(width / ratio)), max(1, round(height / ratio)))
    elif width <= height:
        target = (crop.resize, int(crop.resize * height / width))
    else:
        target = (int(crop.resize * width / height), crop.resize)
    left, top = (max(0, round((side - crop.size) / 2)) for side in target)
    right, bottom = min(target[0], left + crop.size), min(target[1], top + crop.size)
    across, down = width / target[0], height / target[1]
    image = image.resize(
        (right - left, bottom - top),
        _RESAMPLING[crop.interpolation],
        (left * across, top * down, min(width, right * across), min(height, bottom * down)),
    )
    if image.size == (crop.size, crop.size):
        return image
    canvas = Image.new("RGB", (crop.size, crop.size), (crop.fill, crop.fill, crop.fill))
    canvas.paste(image, ((crop.size - image.width) // 2, (crop.size - image.height) // 2))
    return canvas
