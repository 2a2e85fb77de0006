"""Where a server runs: a child process of ours, a container of ours, or elsewhere."""

import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

_BOUND_TO_PARENT = Path(__file__).with_name("bound_to_parent.py")
_GRACE_S = 60
#: Below the range that the kernel hands out, so that a stopped server finds its port free again.
_PORTS = range(20_000, 32_000)
#: A run takes them by so many, the first of which it keeps bound: no other run takes the same.
_BLOCK = 100
#: A child dies with the *thread* that started it, so one that lives as long as the run does it.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server-starter")


class ServerError(RuntimeError):
    """A server didn't start, or ended by itself; the message ends with its log's tail."""


class NotOurServerError(RuntimeError):
    """Someone else's server was to be stopped."""


class Runner(Protocol):
    """Something that a server runs in."""

    def launch(self) -> None:
        """Begin to start it, without waiting."""

    def stop(self) -> None:
        """End it as an operator would; back when it has ended."""

    def kill(self) -> None:
        """End it as a power cut would; back when it has ended."""

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""

    def resume(self) -> None:
        """Let it go on."""

    def running(self) -> bool:
        """Whether it has been launched and hasn't ended."""

    def log_tail(self) -> str:
        """The last lines it wrote."""

    def close(self) -> None:
        """End it for good and remove its data."""


class ChildProcess:
    """A program that writes its data under `folder/data` and its output to `folder/log`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path):
        self._command = command
        # Nothing else of the caller's environment: both servers take settings from theirs.
        kept = ("PATH", "HOME", "JAVA_HOME", "TMPDIR", "LANG")
        self._environment = {name: os.environ[name] for name in kept if name in os.environ}
        self._environment |= environment
        self._folder = folder
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        if not self.running():
            self._process = _starter.submit(self._popen).result()

    def _popen(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                bound_to_parent(self._command),
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests alone
            )

    def stop(self) -> None:
        if self._process is not None and self.running():
            self._process.terminate()
            try:
                self._process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or not self.running():
            raise ServerError("the server isn't running")
        self._process.send_signal(number)

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return "\n".join([*lines[-40:], f"(all of it: {self._log})"])

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder / "data", ignore_errors=True)


class Container:
    """A container of an official image; its data is the container's own."""

    def __init__(self, image: str, environment: Mapping[str, str], ports: Mapping[int, int]):
        self._run = ["docker", "run", "--detach", "--label", f"pixtide-tests={os.getpid()}"]
        for name, value in environment.items():
            self._run += ["--env", f"{name}={value}"]
        for outside, inside in ports.items():
            self._run += ["--publish", f"127.0.0.1:{outside}:{inside}"]
        self._run.append(image)
        self._id: str | None = None

    def launch(self) -> None:
        if self._id is None:
            self._id = docker(self._run)
        else:
            self._docker("start")

    def stop(self) -> None:
        self._docker("stop", "--time", str(_GRACE_S))

    def kill(self) -> None:
        self._docker("kill")

    def pause(self) -> None:
        self._docker("pause")

    def resume(self) -> None:
        self._docker("unpause")

    def running(self) -> bool:
        running = "{{.State.Running}}"
        return self._id is not None and self._docker("inspect", "--format", running) == "true"

    def log_tail(self) -> str:
        return self._docker("logs", "--tail", "40") if self._id is not None else ""

    def close(self) -> None:
        if self._id is not None:
            self._docker("rm", "--force", "--volumes")
            self._id = None

    def _docker(self, verb: str, *options: str) -> str:
        if self._id is None:
            raise ServerError("the container was never started")
        return docker(["docker", verb, *options, self._id])


class Elsewhere:
    """A server that the environment names. It is used, never touched."""

    def __init__(self, variable: str):
        self._variable = variable

    def launch(self) -> None:
        """It runs already."""

    def stop(self) -> None:
        self._refuse()

    def kill(self) -> None:
        self._refuse()

    def pause(self) -> None:
        self._refuse()

    def resume(self) -> None:
        self._refuse()

    def _refuse(self) -> None:
        raise NotOurServerError(
            f"{self._variable} names a server that this run doesn't own, and this test has to "
            f"stop one: unset {self._variable} to run it"
        )

    def running(self) -> bool:
        return True

    def log_tail(self) -> str:
        return f"(it is the server that {self._variable} names)"

    def close(self) -> None:
        """It isn't ours to end."""


def bound_to_parent(command: Sequence[str]) -> list[str]:
    """The command that does the same and is killed when the thread that starts it ends."""
    return [sys.executable, "-I", "-S", str(_BOUND_TO_PARENT), str(os.getpid()), *command]


def docker(command: Sequence[str]) -> str:
    """Run a docker command; its output, both streams of it.

    Raises:
        ServerError: it failed.
    """
    done = subprocess.run(
        command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode != 0:
        raise ServerError(f"{' '.join(command)}: {done.stdout}")
    return done.stdout.strip()


@functools.cache
def docker_answers() -> bool:
    """Whether there is a Docker engine to run containers."""
    if shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(["docker", "info"], check=False, capture_output=True, timeout=20)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


class _Ports:
    """Hands out this run's ports, each once."""

    def __init__(self) -> None:
        self._kept: list[socket.socket] = []
        self._left: list[int] = []
        self._turn = threading.Lock()

    def take(self, in_a_row: int) -> int:
        """The first of so many free ports in a row."""
        with self._turn:
            while True:
                if len(self._left) < in_a_row:
                    self._left = self._another_block()
                taken, self._left = self._left[:in_a_row], self._left[in_a_row:]
                if all(map(_is_free, taken)):
                    return taken[0]

    def _another_block(self) -> list[int]:
        firsts = _PORTS[::_BLOCK]
        for first in random.sample(firsts, len(firsts)):
            keeper = socket.socket()
            try:
                keeper.bind(("", first))
            except OSError:
                keeper.close()
                continue
            self._kept.append(keeper)
            return list(range(first + 1, first + _BLOCK))
        raise ServerError(f"other runs have all ports in {_PORTS}")


_ports = _Ports()


def free_ports(count: int, *, in_a_row: int = 1) -> list[int]:
    """That many ports on which nothing listens, nor on the next ones where more are wanted.

    None of them is given to anybody else while this run lasts.
    """
    return [_ports.take(in_a_row) for _ in range(count)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
