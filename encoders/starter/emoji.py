"""Emoji of three sets as training pictures, with what each shows.

FOLDER holds four unpacked npm packages: `emojibase-data` says what an emoji shows, in the words of
Unicode's CLDR; the others contain drawings of it. DATA.md says how to get them.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from pixtide.encoders.port import Pixels

#: emojibase's groups of things that can be photographed: animals and nature, food and drink, travel
#: and places, activities, objects.
_GROUPS = frozenset({3, 4, 5, 6, 7})
_SETS = (
    ("lobehub-fluent-emoji-3d/package/assets", "webp"),
    ("emoji-datasource-google/package/img/google/64", "png"),
    ("emoji-datasource-twitter/package/img/twitter/64", "png"),
)
_KEYWORDS = 6
#: Views of each drawing: unchanged, and so many with other rotation, colours and position.
_VIEWS = 4
_SIDE = 224


@dataclass(frozen=True)
class Concept:
    """What an emoji shows: its name, more words for it, and its code points as in file names."""

    name: str
    keywords: tuple[str, ...]
    code: str

    @property
    def sentences(self) -> tuple[str, str]:
        """Its name, and its name with the other words."""
        return self.name, ", ".join([self.name, *self.keywords])


def concepts(folder: Path) -> list[Concept]:
    """Every emoji that shows something to photograph."""
    known = json.loads((folder / "emojibase-data/package/en/data.json").read_text())
    return [
        Concept(each["label"], tuple(each.get("tags", ())[:_KEYWORDS]), each["hexcode"].lower())
        for each in known
        if each.get("group") in _GROUPS
    ]


def views(folder: Path, concept: Concept, seed: int) -> Iterator[Pixels]:
    """Pictures (224, 224, 3) of a concept, from each set that has it."""
    chance = random.Random(f"{seed} {concept.code}")  # noqa: S311 - no secret
    for place, kind in _SETS:
        names = (concept.code, concept.code.replace("-fe0f", ""), f"{concept.code}-fe0f")
        files = [file for name in names if (file := folder / place / f"{name}.{kind}").exists()]
        if files:
            drawing = Image.open(files[0]).convert("RGBA")
            drawing = drawing.crop(drawing.getbbox())
            yield _placed(drawing, 0.9, 1.0, (255, 255, 255), (0, 0))
            for _ in range(_VIEWS - 1):
                yield _varied(drawing, chance)


def _varied(drawing: Image.Image, chance: random.Random) -> Pixels:
    turned = drawing.rotate(chance.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)
    if chance.random() < 0.5:
        turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    coloured = ImageEnhance.Color(turned.convert("RGB")).enhance(chance.uniform(0.5, 1.2))
    coloured = ImageEnhance.Brightness(coloured).enhance(chance.uniform(0.7, 1.2))
    coloured = ImageEnhance.Contrast(coloured).enhance(chance.uniform(0.7, 1.2))
    coloured.putalpha(turned.getchannel("A"))
    red, green, blue = (chance.randrange(256) for _ in range(3))
    ground = (255, 255, 255) if chance.random() < 0.5 else (red, green, blue)
    aside = (chance.randint(-25, 25), chance.randint(-25, 25))
    size, stretch = chance.uniform(0.55, 1.0), chance.uniform(0.85, 1.15)
    pixels = _placed(coloured, size, stretch, ground, aside)
    if chance.random() < 0.3:
        blur = ImageFilter.GaussianBlur(chance.uniform(0.3, 1.5))
        pixels = np.asarray(Image.fromarray(pixels).filter(blur))
    return pixels


def _placed(
    drawing: Image.Image,
    size: float,
    stretch: float,
    ground: tuple[int, int, int],
    aside: tuple[int, int],
) -> NDArray[np.uint8]:
    """A drawing of that size on a background, at that distance from the centre."""
    scale = _SIDE * size / max(drawing.size)
    width, height = round(drawing.width * scale), round(drawing.height * scale * stretch)
    scaled = drawing.resize((max(1, width), max(1, height)), Image.Resampling.BICUBIC)
    picture = Image.new("RGB", (_SIDE, _SIDE), ground)
    corner = ((_SIDE - scaled.width) // 2 + aside[0], (_SIDE - scaled.height) // 2 + aside[1])
    picture.paste(scaled, corner, scaled)
    return np.asarray(picture)
