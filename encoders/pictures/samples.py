"""A small picture of each kind that is read, to load everything that reading needs."""

import base64
import io
from collections.abc import Iterator
from typing import Any

from PIL import Image

_AVIF = (
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUIAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAA"
    "AAAAAAAAAAAAAAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAAUAAAAChpaW5mAAAA"
    "AAABAAAAGmluZmUCAAAAAAEAAGF2MDFDb2xvcgAAAABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAAEAAAABAA"
    "AAAQcGl4aQAAAAADCAgIAAAADGF2MUOBAAwAAAAAE2NvbHJuY2x4AAEADQAGgAAAABdpcG1hAAAAAAAAAAEAAQQB"
    "AoMEAAAAWG1kYXQSAAoJGAz/2iAhoNCAMkEcR4eF3dNNNMLGwAB1fgyncwcG6ANVrqaqPoZ4mwY51pAAq9U7zFwv"
    "r0lgbBdDoMeBZcpPUmnRVyEsFlnLQOBGkA=="
)
_HEIC = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAA"
    "AAAAAAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoAABAAAAAAAAADIAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/GlwcnAAAADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34"
    "+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm"
    "4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAA"
    "AChjbGFwAAAAEAAAAAEAAAAQAAAAAf///9AAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAA"
    "AAAAAQABBYECAwWEAAAAOm1kYXQAAAAuKAGvBBIWKiT5XfCcnYR46A1525i8yenAxZDDL8VCoAHZVs9IoMB/OAaA"
    "usx3vA=="
)
#: Formats, modes and how they are written: each uses another reader or conversion.
_WRITTEN: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("JPEG", "RGB", {"exif": True}),
    ("JPEG", "CMYK", {"progressive": True}),
    ("MPO", "RGB", {"save_all": True}),
    ("PNG", "RGBA", {"exif": True}),
    ("PNG", "I;16", {}),
    ("PNG", "P", {"transparency": 0}),
    ("WEBP", "RGBA", {"exif": True}),
    ("GIF", "P", {}),
    ("BMP", "RGB", {}),
    ("TIFF", "F", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw", "exif": True}),
    ("TIFF", "L", {"compression": "jpeg"}),
)


def pictures() -> Iterator[bytes]:
    """Files of 16 × 16 pixels. The first two are stored: writing them takes threads and time."""
    yield base64.b64decode(_AVIF)
    yield base64.b64decode(_HEIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, mode, options in _WRITTEN:
        file = io.BytesIO()
        noted = {"exif": exif.tobytes()} if options.get("exif") else {}
        Image.new(mode, (16, 16)).save(file, kind, **(options | noted))
        yield file.getvalue()
