"""Where an extra is not installed, a command says in one line which one it wants."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest

from pixtide.streams.cli.main import cli
from tests.support import only_extra

#: The others' packages are for commands that need the worker's, too.
INSTALLED = ["", "embedded", "weaviate", "web", "worker"]
#: What commands can't do without; files named so are made.
ARGUMENTS = {
    "publish": ["https://127.0.0.1:1/a.jpg"],
    "delete": ["a"],
    "search": ["a cat"],
    "completion": ["bash"],
    "reindex": ["--model", "starter"],
    "dlq show": ["a"],
    "index create": ["v2"],
    "index promote": ["v1"],
    "index verify": ["v1"],
    "index retire": ["v1"],
    "index rollback": [],
    "index compare": ["v1", "v2", "--queries", "dump"],
}


def leaves(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, *before, name)
        else:
            yield (*before, name)


@pytest.mark.slow
@pytest.mark.parametrize("extras", INSTALLED)
def test_each_command_works_or_says_what_to_install(extras: str, tmp_path: Path) -> None:
    """No Kafka is set, so that whatever could begin its work ends as soon."""
    (tmp_path / "dump").touch()

    def run(command: tuple[str, ...]) -> tuple[str, int, str]:
        done = subprocess.run(
            [*only_extra.PROGRAM, extras, *command, *ARGUMENTS.get(" ".join(command), [])],
            cwd=tmp_path,
            env={"PIXTIDE_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return " ".join(command), done.returncode, done.stderr

    with ThreadPoolExecutor(2) as pool:
        for command, code, said in pool.map(run, leaves(cli)):
            assert "Traceback" not in said, (command, said)
            assert code in {0, 1, 2}, (command, code, said)
            assert "Usage:" not in said, (command, said)


def test_what_the_stack_needs_is_named_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [*only_extra.PROGRAM, "", "up"],
        cwd=tmp_path,
        env={"PIXTIDE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "pip install 'pixtide[embedded,starter,web,worker]'" in line
