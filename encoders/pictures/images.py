"""Turns untrusted bytes into the pixels that a model sees, in two steps: `identify` and `render`.

`identify` uses only the header: it checks format, dimensions and metadata before any pixel is
decoded. `render` decodes the first frame, makes RGB as displayed, and crops.

No torch in here. Decoders are C code that gets other people's data: run this in
`decoder_pool.DecoderPool`.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from pillow_heif import register_heif_opener

from pixtide.encoders.pictures.footprint import footprint, webp_canvas
from pixtide.encoders.pictures.formats import (
    extension_of,
    format_of,
    refused_format,
    sniff_content_type,
)
from pixtide.encoders.pictures.pixels import cut, rgb_of
from pixtide.encoders.port import Crop, Pixels
from pixtide.schemas.errors import PoisonError, ReasonCode

__all__ = [
    "Limits",
    "Picture",
    "decode",
    "extension_of",
    "identify",
    "memory_of",
    "render",
    "sniff_content_type",
    "thumbnail",
]

# Only the main picture is needed, and the pool does the parallel decoding.
register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)

MiB = 2**20
_ORIENTATION_TAG = 0x0112  # Exif 2.32, 4.6.4
_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = range(5, 9)
#: A JPEG is decoded to at least this many times the size that is needed. At 2, vectors are within a
#: cosine of 0.995 of those of the whole picture; at 1 they are not.
_AMPLE = 2
_NO_MEMORY = "decoding takes more memory than a picture may"
#: The errors of Pillow's readers for data that is damaged or ends early.
_DAMAGED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class Limits:
    """The limits of a picture. Pixels and sides are as in the header.

    `max_aspect` bounds long side / short side: a line of pixels would become a huge picture when
    its short side is resized to a model's input. `max_data_bytes` is for the file.
    """

    max_pixels: int = 89_000_000
    max_dimension: int = 65_535
    max_aspect: int = 100
    max_metadata_bytes: int = 8 * MiB
    max_data_bytes: int = 64 * MiB

    @property
    def max_memory(self) -> int:
        """The most bytes that a picture may take while it is decoded, besides those of its file."""
        return 8 * self.max_pixels + 32 * MiB


@dataclass(frozen=True)
class Picture:
    """A decoded picture: uint8 RGB pixels of shape (size, size, 3), cropped for one model.

    `width` and `height` are those of the whole picture as displayed, after its EXIF rotation.
    `format` is Pillow's name: "JPEG", "PNG", "HEIF" …
    """

    pixels: Pixels
    width: int
    height: int
    format: str

    @property
    def orientation(self) -> Literal["landscape", "portrait", "square"]:
        """The shape as displayed."""
        if self.width == self.height:
            return "square"
        return "landscape" if self.width > self.height else "portrait"


def decode(data: bytes, crop: Crop, limits: Limits) -> Picture:
    """Decode one picture and crop it for a model.

    Raises:
        PoisonError: EMPTY_IMAGE, TOO_LARGE, TRUNCATED_IMAGE, UNIDENTIFIED_FORMAT,
            FORMAT_NOT_ALLOWED, PIXEL_LIMIT, DIMENSION_LIMIT or METADATA_LIMIT.
    """
    image = identify(data, limits)
    memory_of(image, data, limits, crop.resize)
    return render(image, crop, limits)


def identify(data: bytes, limits: Limits) -> Image.Image:
    """Read the header and check it; no pixel is decoded yet.

    Raises:
        PoisonError: as `decode`.
    """
    if not data:
        raise PoisonError(ReasonCode.EMPTY_IMAGE, "the picture has no bytes")
    if len(data) > limits.max_data_bytes:
        raise PoisonError(
            ReasonCode.TOO_LARGE, f"{len(data)} bytes; at most {limits.max_data_bytes} are decoded"
        )
    kind = format_of(data)
    if kind is None:
        refused = refused_format(data)
        if refused:
            raise PoisonError(ReasonCode.FORMAT_NOT_ALLOWED, f"{refused} files are not read")
        raise PoisonError(ReasonCode.UNIDENTIFIED_FORMAT, "the bytes are no known picture format")
    # Pillow keeps its limits in its modules; within a process they are always ours
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    PngImagePlugin.MAX_TEXT_CHUNK = limits.max_metadata_bytes
    PngImagePlugin.MAX_TEXT_MEMORY = limits.max_metadata_bytes
    canvas = webp_canvas(data) if kind == "WEBP" else None
    if canvas is not None:
        _check_size(canvas, limits)
    with _verdicts(ReasonCode.METADATA_LIMIT):
        image = Image.open(io.BytesIO(data), formats=[kind])
    _check_size(image.size, limits)
    _check_metadata(image, limits)
    return image


def memory_of(image: Image.Image, data: bytes, limits: Limits, side: int) -> int:
    """The bytes that decoding an identified picture takes, besides those of its file.

    Raises:
        PoisonError: PIXEL_LIMIT if that is more than allowed; TRUNCATED_IMAGE.
    """
    with _verdicts():
        memory = footprint(image, data, limits.max_pixels, _AMPLE * side)
    if memory > limits.max_memory:
        raise PoisonError(
            ReasonCode.PIXEL_LIMIT,
            f"decoding takes {memory // MiB} MiB of memory; at most {limits.max_memory // MiB} "
            "are spent",
        )
    return memory


def render(image: Image.Image, crop: Crop, limits: Limits) -> Picture:
    """Decode an identified picture: its first frame, as displayed, cropped for a model.

    Raises:
        PoisonError: TRUNCATED_IMAGE, PIXEL_LIMIT, METADATA_LIMIT, or FORMAT_NOT_ALLOWED for pixels
            of a kind that has no pinned conversion.
    """
    # a JPEG with further pictures after it (a phone's depth map, say) is still a JPEG
    kind = "JPEG" if image.format == "MPO" else image.format or ""
    whole = image.size
    _spare(image, crop.resize)
    spared = image.size != whole
    shown = _displayed(image, limits)
    if not spared:
        whole = shown.size
    elif _orientation(image) in _ON_ITS_SIDE:
        whole = whole[::-1]
    with _verdicts():
        return Picture(np.asarray(cut(shown, crop)), *whole, kind)


def thumbnail(image: Image.Image, side: int, limits: Limits) -> bytes:
    """Decode an identified picture to a small JPEG, as displayed, at most `side` pixels a side.

    Raises:
        PoisonError: as `render`.
    """
    _spare(image, side)
    shown = _displayed(image, limits)
    small = io.BytesIO()
    with _verdicts():
        shown.thumbnail((side, side))
        plain = shown.copy()  # without metadata: a thumbnail has only pixels
        plain.info.clear()
        plain.save(small, "JPEG", quality=80)
    return small.getvalue()


@contextmanager
def _verdicts(too_much: ReasonCode = ReasonCode.PIXEL_LIMIT) -> Iterator[None]:
    """Run Pillow's readers: turns their errors into ours, and ignores warnings about metadata.

    `too_much` is the code for a picture that needs more memory than there is.

    The warning filters are process-wide while inside. They only affect Pillow, so overlapping
    threads can at worst leave a warning ignored.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PoisonError(ReasonCode.PIXEL_LIMIT, str(error)) from error
    except UnidentifiedImageError as error:
        raise PoisonError(ReasonCode.TRUNCATED_IMAGE, "the header is damaged or cut off") from error
    except PermissionError:  # in a confined process: a reader that wants more than bytes
        raise
    except MemoryError as error:
        raise PoisonError(too_much, _NO_MEMORY) from error
    except _DAMAGED as error:
        if "memory" in str(error).lower():  # as the readers in C report it
            raise PoisonError(too_much, _NO_MEMORY) from error
        if "MAX_TEXT_" in str(error):
            raise PoisonError(ReasonCode.METADATA_LIMIT, str(error)) from error
        raise PoisonError(
            ReasonCode.TRUNCATED_IMAGE, f"the picture is damaged or cut off: {error}"
        ) from error


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise PoisonError(
            ReasonCode.PIXEL_LIMIT,
            f"{width} x {height} pixels; at most {limits.max_pixels} are decoded",
        )
    longest, shortest = max(width, height), min(width, height)
    if longest > limits.max_dimension or longest > limits.max_aspect * shortest:
        raise PoisonError(
            ReasonCode.DIMENSION_LIMIT,
            f"{width} x {height}; a side may have {limits.max_dimension} pixels "
            f"and {limits.max_aspect} times the other",
        )


def _check_metadata(image: Image.Image, limits: Limits) -> None:
    metadata = _length(list(image.info.values()))
    if metadata > limits.max_metadata_bytes:
        raise PoisonError(
            ReasonCode.METADATA_LIMIT,
            f"{metadata} bytes of metadata; at most {limits.max_metadata_bytes} are read",
        )


def _length(note: object) -> int:
    """Bytes or characters of a metadata note, including nested notes."""
    if isinstance(note, bytes | str):
        return len(note)
    if isinstance(note, dict):
        note = list(note.values())
    return sum(map(_length, note)) if isinstance(note, list | tuple) else 0


def _spare(image: Image.Image, side: int) -> None:
    """Decode a JPEG to a half, a quarter or an eighth of its sides, if that is large enough.

    The inverse cosine transform gives the smaller picture directly, in a fraction of the time.
    Pillow's other readers ignore this.
    """
    image.draft(None, (_AMPLE * side, _AMPLE * side))


def _displayed(image: Image.Image, limits: Limits) -> Image.Image:
    """Decode the first frame to RGB, rotated as a viewer shows it."""
    with _verdicts():
        image.load()
    _check_size(image.size, limits)  # some readers learn the true size only now
    turn = _TRANSPOSED.get(_orientation(image))
    try:
        rgb = rgb_of(image)
    except ValueError as error:
        raise PoisonError(
            ReasonCode.FORMAT_NOT_ALLOWED, f"pixels of mode {image.mode} have no conversion"
        ) from error
    if rgb is not image:
        image.close()  # its pixels are not needed any more
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation still to be applied; 1 (upright) if the EXIF can't be read.

    Called after loading: by then the TIFF and HEIF readers have rotated the picture, and report so.
    """
    try:
        with _verdicts(ReasonCode.METADATA_LIMIT):
            found = image.getexif().get(_ORIENTATION_TAG, 1)
    except PoisonError:  # broken metadata doesn't make the picture worthless
        return 1
    return found if isinstance(found, int) else 1
