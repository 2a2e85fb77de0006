"""Which picture formats are read, detected from a file's first bytes and never from its name.

Signatures: JPEG (ITU T.81), PNG (RFC 2083), GIF89a, WebP container, BMP (BITMAPFILEHEADER), TIFF
6.0 and BigTIFF, ISO 23008-12 (HEIF) and AV1 Image File Format brands.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

_SNIFFED_BYTES = 4096


@dataclass(frozen=True)
class _Format:
    name: str
    content_type: str
    extension: str
    signature: re.Pattern[bytes]


def _signature(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


_ALLOWED = (
    _Format("JPEG", "image/jpeg", "jpg", _signature(rb"\xff\xd8\xff")),
    _Format("PNG", "image/png", "png", _signature(rb"\x89PNG\r\n\x1a\n")),
    _Format("WEBP", "image/webp", "webp", _signature(rb"RIFF.{4}WEBP")),
    _Format("GIF", "image/gif", "gif", _signature(rb"GIF8[79]a")),
    # "BM" alone would also match prose, so the size of the header that follows is checked, too
    _Format("BMP", "image/bmp", "bmp", _signature(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0")),
    _Format("TIFF", "image/tiff", "tif", _signature(rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]")),
    # the brand comes first, or is among the compatible brands of a generic image file
    _Format(
        "AVIF",
        "image/avif",
        "avif",
        _signature(rb".{4}ftyp(?:avi[fs]|m[is]f1.{4}(?:.{4}){0,12}?avi[fs])"),
    ),
    _Format(
        "HEIF", "image/heic", "heic", _signature(rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)")
    ),
)

#: The formats that are read, in Pillow's spelling.
NAMES = tuple(known.name for known in _ALLOWED)

#: Known but refused: documents, programs in disguise, and formats that need a decoder we don't run.
#: Other formats that Pillow can recognise are refused, too, see `refused_format`.
_REFUSED = {
    "PDF": _signature(rb"%PDF-"),
    "EPS": _signature(rb"%!PS|\xc5\xd0\xd3\xc6"),
    "PSD": _signature(rb"8BPS"),
    "FITS": _signature(rb"SIMPLE  ="),
    "JPEG XL": _signature(rb"\xff\x0a|\0\0\0\x0cJXL "),
    "ISO media": _signature(rb".{4}ftyp"),
    # atomic groups: a file full of comments must not make the search exponential
    "SVG": _signature(
        rb"(?:\xef\xbb\xbf)?(?>\s+|<\?.*?\?>|<!--.*?-->)*+(?:<!DOCTYPE\s+svg|<(?:\w+:)?svg[\s>])"
    ),
}


def format_of(data: bytes) -> str | None:
    """The allowed format's name in Pillow's spelling ("JPEG", "HEIF" …), or None."""
    found = _allowed(data)
    return found.name if found else None


def sniff_content_type(data: bytes) -> str | None:
    """The media type of an allowed format, such as "image/jpeg", or None."""
    found = _allowed(data)
    return found.content_type if found else None


def extension_of(kind: str) -> str:
    """The usual file extension, without a dot, of a format name or media type; else "bin"."""
    for known in _ALLOWED:
        if kind.upper() == known.name or kind.lower() == known.content_type:
            return known.extension
    return "bin"


def refused_format(data: bytes) -> str | None:
    """The name of the format of `data` if it is known but not allowed, else None."""
    head = data[:_SNIFFED_BYTES]
    for name, signature in _REFUSED.items():
        if signature.match(head):
            return name
    Image.init()
    for name, (_, accept) in Image.OPEN.items():
        if accept is not None and _accepts(accept, head[:16]):
            return name
    return None


def _allowed(data: bytes) -> _Format | None:
    head = data[:_SNIFFED_BYTES]
    return next((known for known in _ALLOWED if known.signature.match(head)), None)


def _accepts(accept: Callable[[bytes], bool | str], prefix: bytes) -> bool:
    """Ask a Pillow plugin about a signature; runs only its check of 16 bytes, not its reader."""
    try:
        return accept(prefix) is True
    except (IndexError, struct.error):  # the prefix is shorter than the plugin expects
        return False
