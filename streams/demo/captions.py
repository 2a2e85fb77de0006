"""What the demo's pictures show, in words: the column "Shows" of SOURCES.md."""

import re
from importlib.resources import files

#: What is said of the file rather than of what it shows.
_OF_THE_FILE = re.compile(r"(, on a transparent ground|; stored .*)$")


def captions() -> dict[str, str]:
    """The caption of each picture, by its path within `pictures/`."""
    found = {}
    for line in (
        (files("pixtide.streams.demo") / "SOURCES.md").read_text(encoding="utf-8").splitlines()
    ):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if re.fullmatch(r"`\w+/[\w-]+\.\w+`", cells[0]):
            found[cells[0].strip("`")] = _OF_THE_FILE.sub("", cells[1])
    return found
