"""Every command that README and docs show works, as it stands there.

What a reader is taken to have: some pictures in ~/Pictures, a model in ~/models, and in the folder
that they work in `beach.jpg`, `lamp.jpg`, `queries.txt` and the checkout's `.venv`. The addresses
of a stack, localhost:9092 and localhost:8080, stand for those of the one that runs here.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from tests.support.deployments import Embedded
from tests.support.documented import ROOT, Block, blocks, pages
from tests.support.models import tiny_clip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGES = [page for page in pages() if any(block.is_run for block in blocks(page))]
PATIENCE_S = 240.0
#: The reader's pictures, by what they are of the demo's.
PICTURES = {
    "dunes.jpg": "nature/sunset-over-hills.jpg",
    "old.jpg": "places/petra.jpg",
    "holiday/beach.jpg": "food/cocktail.jpg",
    "holiday/dog.jpg": "animals/golden-retriever.jpg",
}


@dataclass(frozen=True)
class Reader:
    """Someone with a running stack who follows a page."""

    stack: Embedded
    folder: Path
    env: dict[str, str]

    def follow(self, block: Block) -> None:
        """Do what a block says; it must work."""
        text = self._here(block.text)
        command = ["bash", "-euo", "pipefail", "-c", text]
        if block.language == "python":
            command = [sys.executable, "-c", text]
        if block.until is not None:
            self._until(block, command)
            return
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{block}: exit code {done.returncode}\n{text}\n{done.stdout}"

    def _here(self, text: str) -> str:
        web = json.loads((self.stack.home / "stack.json").read_text())["web"]
        text = text.replace("localhost:9092", self.stack.settings().bootstrap())
        return text.replace("localhost:8080", web.removeprefix("http://"))

    def _until(self, block: Block, command: list[str]) -> None:
        """Start it in a home of its own, at a terminal, until it says so; then press Ctrl-C."""
        ours, theirs = os.openpty()
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env | {"PIXTIDE_HOME": str(self.folder / ".pixtide")},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        terminal = _Terminal(ours)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while (block.until or "") not in terminal.read():
                assert process.poll() is None, f"{block} ended:\n{terminal.said}"
                assert time.monotonic() < deadline, f"{block} does not start:\n{terminal.said}"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            while process.poll() is None:
                terminal.read()
            os.close(ours)
        assert process.returncode == 0, f"{block}: {process.returncode}\n{terminal.said}"


class _Terminal:
    """What was written to a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.said = ""

    def read(self) -> str:
        """All of it so far; waits a moment for more."""
        if select.select([self._descriptor], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):  # EIO: nobody has it open any more
                self.said += os.read(self._descriptor, 65536).decode(errors="replace")
        return self.said


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """`pixtide up` of a reader, who has pictures and a model."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "models").mkdir()
    tiny_clip(folder / "models" / "my-clip")
    with as_file(files("pixtide.streams.demo") / "pictures") as shipped:
        for name, of in PICTURES.items():
            (folder / "Pictures" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shipped / of, folder / "Pictures" / name)
    made = Embedded(
        folder / ".pixtide",
        HOME=str(folder),
        XDG_CACHE_HOME=os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
        PYTHONPATH=str(ROOT),
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    )
    made.start()
    try:
        made.publish(str(folder / "Pictures"))
        yield made
    finally:
        made.stop()


@pytest.fixture
def reader(stack: Embedded, tmp_path: Path) -> Reader:
    """In a fresh folder of their own."""
    pictures = stack.folder / "Pictures"
    shutil.copyfile(pictures / "holiday" / "beach.jpg", tmp_path / "beach.jpg")
    shutil.copyfile(pictures / "dunes.jpg", tmp_path / "lamp.jpg")
    (tmp_path / "queries.txt").write_text("a dog\na drink on the beach\n")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return Reader(stack, tmp_path, stack.env)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_work_in_their_order(page: Path, reader: Reader) -> None:
    for block in blocks(page):
        if block.is_run:
            reader.follow(block)
