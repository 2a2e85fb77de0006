"""The demo's pictures come with what they show, for the search by words."""

from importlib.resources import files
from pathlib import Path

from pixtide.streams.demo.captions import captions

PICTURES = Path(str(files("pixtide.streams.demo") / "pictures"))


def test_every_picture_has_a_caption_and_every_caption_a_picture() -> None:
    there = {path.relative_to(PICTURES).as_posix() for path in PICTURES.rglob("*.*")}
    assert captions().keys() == there
    assert all(captions().values())


def test_a_caption_tells_what_is_shown_and_nothing_of_the_file() -> None:
    assert captions()["animals/koala.jpg"] == "A koala in a tree"
    assert captions()["drawings/violin.webp"] == "A violin, drawn"
    assert not [said for said in captions().values() if "ground" in said or "stored" in said]
