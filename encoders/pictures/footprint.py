"""How much memory a picture takes to decode, according to its header.

Based on measurements of Pillow 13 and its libraries: a picture as read, then as RGB, and what a
format's own decoder holds besides. The header says nothing about the picture's body; each decoder's
memory limit covers that.
"""

from collections.abc import Iterable

from PIL import Image

from pixtide.encoders.pictures.pixels import BAND_PIXELS
from pixtide.schemas.errors import PoisonError, ReasonCode

#: Bytes per pixel: the picture as RGB, and a rotated copy.
_SHOWN = 8
#: Bytes per pixel of the band that is being converted.
_CONVERTED = 16
#: Bytes per pixel while reading, without and with transparency: 12 bits a channel, 4:4:4.
_READ = {"WEBP": (17, 18), "AVIF": (14, 20), "HEIF": (12, 20)}
_ONE_BYTE = ("1", "L", "P")
#: How often a JPEG may return to its pixels, as a multiple of the most pixels allowed.
_MOST_SCANS = 32
_SCALES = (8, 4, 2, 1)
_BITS, _SAMPLES, _ROWS, _PLANES, _TILE_WIDTH, _TILE_HEIGHT = 258, 277, 278, 284, 322, 323


def footprint(image: Image.Image, data: bytes, most_pixels: int, side: int) -> int:
    """The most bytes of memory that decoding takes, besides those of the file.

    Args:
        image: identified, not loaded yet.
        data: the file.
        most_pixels: the most pixels that a picture may have.
        side: a JPEG is decoded to at least this many pixels a side.

    Raises:
        PoisonError: PIXEL_LIMIT for a JPEG of very many scans, TRUNCATED_IMAGE for a TIFF whose
            tags are no numbers.
    """
    pixels = image.width * image.height
    converting = _CONVERTED * min(pixels, BAND_PIXELS)
    if image.format in ("JPEG", "MPO"):
        return converting + _jpeg(image, data, most_pixels, side)
    if image.format == "TIFF":
        return converting + max(_SHOWN * pixels, _of_one(image) * pixels + _tiff_piece(image))
    plain, transparent = _READ.get(image.format or "", (0, 0))
    reading = transparent if image.has_transparency_data else plain
    return converting + max(_SHOWN, reading) * pixels


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """The size of a WebP's canvas, which is allocated immediately; None if unclear."""
    kind, head = data[12:16], data[20:30]
    if kind == b"VP8X" and len(head) == 10:
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    return None  # the other kinds have 14 bits a side


def _of_one(image: Image.Image) -> int:
    if image.mode in _ONE_BYTE:
        return 1
    return 2 if image.mode.startswith("I;16") else 4


def _jpeg(image: Image.Image, data: bytes, most_pixels: int, side: int) -> int:
    """If there is more than one scan, its reader holds all coefficients, two bytes each."""
    pixels = image.width * image.height
    scans = _scans(image, data)
    if scans * pixels > _MOST_SCANS * most_pixels:
        raise PoisonError(ReasonCode.PIXEL_LIMIT, f"{scans} scans of {pixels} pixels")
    ample = min(image.width // side, image.height // side)
    scale = next((each for each in _SCALES if each <= ample), 1)
    coefficients = 2 * len(image.getbands()) * pixels if scans > 1 else 0
    return coefficients + _SHOWN * (image.width // scale + 1) * (image.height // scale + 1)


def _scans(image: Image.Image, data: bytes) -> int:
    """Scans of a JPEG, and of pictures after it; not those of a thumbnail in its metadata.

    If the first scan has all components and is not progressive, there is no other.
    """
    place = 2
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != b"\xda":
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if length < 2:
            break
        place += 2 + length
    components = int.from_bytes(data[place + 4 : place + 5], "big")
    whole = data[place : place + 2] == b"\xff\xda" and components >= len(image.getbands())
    if whole and not image.info.get("progressive"):
        return 1
    return data.count(b"\xff\xda", place)


def _tiff_piece(image: Image.Image) -> int:
    """Bytes of the unit in which a TIFF is read: a tile, a strip, or the whole by default."""
    width = _tag(image, _TILE_WIDTH, 0)
    height = _tag(image, _TILE_HEIGHT, 0)
    if not (width and height):
        width, height = image.width, min(_tag(image, _ROWS, image.height), image.height)
    bits = max(_numbers(_value(image, _BITS, 1)))
    samples = _tag(image, _SAMPLES, 1) if _tag(image, _PLANES, 1) == 1 else 1
    return width * height * max(4, -(-bits * samples // 8))


def _tag(image: Image.Image, tag: int, default: int) -> int:
    return _numbers(_value(image, tag, default))[0]


def _value(image: Image.Image, tag: int, default: int) -> object:
    return getattr(image, "tag_v2", {}).get(tag, default)


def _numbers(value: object) -> list[int]:
    values = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    numbers = [each for each in values if isinstance(each, int) and 0 <= each < 2**32]
    if not numbers:
        raise PoisonError(ReasonCode.TRUNCATED_IMAGE, "a tag that must be a number is none")
    return numbers
