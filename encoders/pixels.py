"""The pinned conversions: a decoded picture of any mode to RGB, and RGB to a model's square.

Vectors depend on every line here: change what comes out, and change `PREPROCESSING` with it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.port import Crop

#: The version of what is done to pixels; part of every model's fingerprint.
PREPROCESSING = "pixels-v1"

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
    round half to even, and padding puts the odd pixel right and below.
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
    image = image.resize(target, _RESAMPLING[crop.interpolation])
    padded = (max(crop.size, image.width), max(crop.size, image.height))
    if padded != image.size:
        canvas = Image.new("RGB", padded, (crop.fill, crop.fill, crop.fill))
        canvas.paste(image, ((padded[0] - image.width) // 2, (padded[1] - image.height) // 2))
        image = canvas
    left, top = round((image.width - crop.size) / 2), round((image.height - crop.size) / 2)
    return image.crop((left, top, left + crop.size, top + crop.size))
