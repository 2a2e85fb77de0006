"""Each command in README and docs is run by a test, or says why not; all of them exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pixtide.streams.cli.main import cli
from tests.support.documented import ROOT, RUN, blocks, pages

#: What isn't run and holds no commands.
SHOWN = ("json", "nginx", "properties", "text")
COMMANDS = re.compile(r"^(\$ |(pixtide|make|curl|docker|kafka-\S+|python|pip|git|npm|mvn) )", re.M)
#: Its blocks are the parser's own words.
GENERATED = ROOT / "docs" / "cli.md"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_block_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        assert block.language in (*RUN, "console", *SHOWN), f"{block}: {block.language or 'none'}"
        if block.language == "console":
            assert block.why_not_run, f"{block}: a comment above must say why it isn't run"
        elif block.language in SHOWN and page != GENERATED:
            assert not COMMANDS.search(block.text), f"{block} shows a command that isn't run"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_block_hides_by_being_indented(page: Path) -> None:
    outside = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"\n\n {4,}\S", outside), page


def mentioned() -> Iterator[tuple[str, str]]:
    """Where a command of pixtide is shown or named, and the command."""
    for page in [*pages(), ROOT / "deploy" / "README.md"]:
        text = page.read_text().replace("\\\n", " ")
        lines = re.findall(r"^pixtide [a-z].*$", text, re.MULTILINE)
        spoken = re.findall(r"`(pixtide [a-z][^`]*)`", text)
        for command in {*lines, *spoken} if page != GENERATED else ():
            yield str(page.relative_to(ROOT)), " ".join(command.split())


@pytest.mark.parametrize(("where", "line"), sorted(mentioned()))
def test_a_command_that_is_named_exists_with_its_options(where: str, line: str) -> None:
    command: click.Command = cli
    words = shlex.split(line.split(" < ")[0].split(" || ")[0], comments=True)[1:]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        names = words.pop(0).split("|")
        assert set(names) <= command.commands.keys(), f"{where}: {line}"
        command = command.commands[names[0]]
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    options = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert options <= known | {"--help"}, f"{where}: {line}"
