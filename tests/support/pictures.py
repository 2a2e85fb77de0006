"""Small pictures made for tests: each seed gives another one, the same each time."""

import io
import random

from PIL import Image


def jpeg(seed: int, size: int = 48) -> bytes:
    """A JPEG of four coloured fields."""
    chance = random.Random(seed)
    picture = Image.new("RGB", (size, size))
    for left in (0, size // 2):
        for top in (0, size // 2):
            colour = tuple(chance.randrange(256) for _ in range(3))
            picture.paste(colour, (left, top, left + size // 2, top + size // 2))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    return out.getvalue()
