"""Real vectors by the hundred thousand: what the starter model makes of altered demo pictures.

Each picture encoded is a random cut of one of the demo's pictures, or of two of them blended or
side by side; turned, mirrored and recoloured at random. Encoding is slow on a small machine, so
the vectors are kept in the user's cache, and beyond so many (`encoded`) the rest are mixtures of
two of them. A mixture isn't noise: the starter's vector of a picture is itself the mean of class
vectors, so this is what it would make of a picture that shows something of both.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from pixtide.encoders.pictures.pixels import cut, rgb_of
from pixtide.encoders.port import Encoder, Pixels, Vectors

_ORIGINALS = Path(__file__).parents[2] / "streams" / "demo" / "pictures"
_CHUNK = 500
_LONGEST = 320
#: Changed with what follows, so that no old vectors are taken for new ones.
_VERSION = 1

Random = np.random.Generator


def embeddings(encoder: Encoder, count: int, encoded: int, say: Callable[[str], None]) -> Vectors:
    """So many unit vectors, float32 (count, dimension), the same each time.

    The first `encoded` are of pictures, each of the rest a mixture of two of those.
    """
    encoded = min(count, encoded)
    chunks = [_chunk(encoder, n, say) for n in range(-(-encoded // _CHUNK))]
    real = np.concatenate(chunks)[:encoded]
    return np.concatenate([real, _mixtures(real, count - encoded)])


def _mixtures(vectors: Vectors, count: int) -> Vectors:
    """Mostly of one, to some part of another."""
    random = np.random.default_rng(_VERSION)
    one, other = random.integers(len(vectors), size=(2, count))
    share = random.uniform(0.5, 1, size=(count, 1)).astype(np.float32)
    mixed = share * vectors[one] + (1 - share) * vectors[other]
    return np.asarray(mixed / np.linalg.norm(mixed, axis=1, keepdims=True), np.float32)


def _chunk(encoder: Encoder, number: int, say: Callable[[str], None]) -> Vectors:
    """The vectors of one chunk of pictures, from the cache or into it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pixtide"
    file = cache / "benchmarks" / f"{encoder.fingerprint}-{_VERSION}-{number:05}.npy"
    if file.exists():
        return np.asarray(np.load(file), np.float32)
    say(f"encoding pictures {number * _CHUNK:,} to {(number + 1) * _CHUNK:,}")
    vectors = encoder.encode_pictures(_pictures(encoder, number))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as out:
        np.save(out, vectors)
    partial.replace(file)
    return vectors


def _pictures(encoder: Encoder, chunk: int) -> Pixels:
    random = np.random.default_rng((_VERSION, chunk))
    originals = [_small(path) for path in sorted(_ORIGINALS.rglob("*.*"))]
    altered = [_altered(originals, random) for _ in range(_CHUNK)]
    return np.stack([np.asarray(cut(picture, encoder.crop)) for picture in altered])


def _small(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        small = rgb_of(ImageOps.exif_transpose(picture))
    small.thumbnail((_LONGEST, _LONGEST))
    return small


def _altered(originals: list[Image.Image], random: Random) -> Image.Image:
    first, second = (originals[n] for n in random.integers(len(originals), size=2))
    picture = _part(first, random)
    match random.integers(3):
        case 1:
            other = _part(second, random).resize(picture.size)
            picture = Image.blend(picture, other, random.uniform(0.2, 0.5))
        case 2:
            width = int(picture.width * random.uniform(0.2, 0.5))
            picture.paste(_part(second, random).resize((width, picture.height)))
    for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        picture = enhance(picture).enhance(random.uniform(0.6, 1.4))
    return picture


def _part(picture: Image.Image, random: Random) -> Image.Image:
    """A cut of two fifths of each side or more, turned by up to 20 degrees, perhaps mirrored."""
    width, height = (int(side * random.uniform(0.4, 1)) for side in picture.size)
    left = int(random.integers(picture.width - width + 1))
    top = int(random.integers(picture.height - height + 1))
    part = picture.rotate(random.uniform(-20, 20), Image.Resampling.BILINEAR)
    part = part.crop((left, top, left + width, top + height))
    return ImageOps.mirror(part) if random.integers(2) else part
