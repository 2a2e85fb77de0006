"""The code blocks of README.md and docs/, and what a comment above them says of them.

`sh` and `python` blocks are run, page by page, in their order, by
tests/end_to_end/test_documented_commands.py. A comment right above one may say otherwise:

    <!-- not run: REASON -->     it can't be run there: a GPU, Docker, a cluster, the network
    <!-- until "TEXT" -->        it stays; once it says TEXT, Ctrl-C ends it

What is never run is fenced `console`, with its reason.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ("sh", "python")
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
_UNTIL = re.compile(r'<!-- until "(.+)" -->')


@dataclass(frozen=True)
class Block:
    """One fenced block: where it begins, its language, and the comment right above it."""

    page: Path
    line: int
    language: str
    text: str
    comment: str

    @property
    def why_not_run(self) -> str | None:
        """The reason that it isn't run, if one is given."""
        found = _NOT_RUN.fullmatch(self.comment)
        return found[1] if found else None

    @property
    def until(self) -> str | None:
        """What it says when it has started, if it stays."""
        found = _UNTIL.fullmatch(self.comment)
        return found[1] if found else None

    @property
    def is_run(self) -> bool:
        """Whether the test runs it."""
        return self.language in RUN and self.why_not_run is None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """The README, then the documentation by name."""
    docs = ROOT / "docs"
    found = (page for page in docs.rglob("*.md") if "node_modules" not in page.parts)
    return [ROOT / "README.md", *sorted(found)]


def blocks(page: Path) -> Iterator[Block]:
    """The page's blocks, in their order."""
    comment, opened, language = "", 0, ""
    inside: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if opened and line == "```":
            yield Block(page, opened, language, "\n".join(inside) + "\n", comment)
            comment, opened, inside = "", 0, []
        elif opened:
            inside.append(line)
        elif line.startswith("```"):
            opened, language = number, line.removeprefix("```")
        elif line:
            comment = line if line.startswith("<!--") else ""
