"""The pinned conversions: a decoded picture of any mode to RGB, and RGB to a model's square.

Vectors depend on every line here. If you change the output, change `PREPROCESSING`, too.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixtide.encoders.port import Crop

#: The version of the pixel processing; part of every model's fingerprint.
PREPROCESSING = "pixels-v2"

#: Pixels that are converted at once.
BAND_PIXELS = 2**20
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def rgb_of(image: Image.Image) -> Image.Image:
    """Convert to mode RGB; transparent pixels become white, colour profiles are ignored.

    Works in bands, so that the intermediate steps take little memory.

    Raises:
        ValueError: for a mode that Pillow can't convert.
    """
    transparent = image.has_transparency_data
    if image.mode == "RGB" and not transparent:
        return image
    stretch = _range(image) if image.mode == "F" else None
    rows = max(1, BAND_PIXELS // max(1, image.width))
    if rows >= image.height:
        return _band(image, stretch, transparent=transparent)
    shown = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(image.height, top + rows)))
        shown.paste(_band(band, stretch, transparent=transparent), (0, top))
    return shown


def _band(
    image: Image.Image, stretch: tuple[float, float] | None, *, transparent: bool
) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _grey(image, stretch)
        transparent = False  # greys of 16 bits and more have lost their alpha
    if not transparent:
        return image.convert("RGB")
    see_through = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(see_through, mask=see_through.getchannel("A"))
    return white


def _grey(image: Image.Image, stretch: tuple[float, float] | None) -> Image.Image:
    """16-bit and deeper grey to 8 bits: integers from 0..65535, floats from their own range."""
    values = _values(image)
    if stretch is not None:
        low, high = map(np.float32, stretch)
        values = (values - low) / (high - low or 1) * 255
    else:
        values = values / 257
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _range(image: Image.Image) -> tuple[float, float]:
    rows = max(1, BAND_PIXELS // max(1, image.width))
    low, high = np.inf, -np.inf
    for top in range(0, image.height, rows):
        values = _values(image.crop((0, top, image.width, min(image.height, top + rows))))
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high


def _values(image: Image.Image) -> NDArray[np.floating[Any]]:
    values: NDArray[np.floating[Any]] = np.array(image, dtype=np.float32)
    np.nan_to_num(values, copy=False, posinf=0, neginf=0)
    return values


def cut(image: Image.Image, crop: Crop) -> Image.Image:
    """Resize and crop RGB as open_clip 3.3.0's `image_transform(is_train=False)` does.

    Rounding follows open_clip and torchvision: the long side is truncated to whole pixels, centres
    round half to even, and padding puts the odd pixel right and below. Pixels that are cropped away
    are not computed, so the remaining ones may be rounded the other way.
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
