"""A process of the stack: its log, its last words, and its end."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from pixtide.schemas.errors import PixtideError
from pixtide.streams.wiring.generations import OTHER_MODEL

STOP_S = 30.0


class StackError(PixtideError):
    """A part of the stack did not start, or ended by itself."""


@dataclass
class Child:
    """A process of the stack."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def complain(self) -> StackError:
        """Say that it ended, with the last it said."""
        said = self._said()[-15:]
        return StackError(
            f"{self.name} ended with code {self.process.returncode}; the end of {self.log}:\n  "
            + "\n  ".join(said)
        )

    def needs_another_index(self) -> str | None:
        """What it said, if it ended since its generation can't be made by today's model."""
        last = "".join(self._said()[-1:])
        return last.removeprefix("pixtide: ") if OTHER_MODEL in last else None

    def _said(self) -> list[str]:
        return self.log.read_text(errors="replace").strip().splitlines()


def command_of(pid: int) -> str:
    """The command line of a process; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process: asked first, then killed."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
