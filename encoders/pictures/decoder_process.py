"""A decoder process as its pool uses it: start, ask, and kill it if it misbehaves."""

import contextlib
import math
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pixtide.encoders.pictures import decoder_wire as wire
from pixtide.encoders.pictures.confinement import Fence
from pixtide.encoders.pictures.decoder_wire import GarbledError, Job, Pipe, Tag
from pixtide.encoders.pictures.images import Limits
from pixtide.encoders.reserve import Reserve
from pixtide.schemas.errors import FatalError, PoisonError, ReasonCode, TransientError

T = TypeVar("T")

#: The module whose `main` runs in a decoder.
PROGRAM = "pixtide.encoders.pictures.decoder_child"
#: The longest start of a decoder, in seconds; usually one, several on a busy machine.
_START_S = 60.0
_BOOT = (
    "import importlib, sys; program, pipe, *sys.path[:] = sys.argv[1:];"
    "importlib.import_module(program).main(int(pipe))"
)
#: The variables that a decoder keeps from the environment, so that the loader finds libraries. The
#: others are fixed: no library may start threads or reserve memory for them.
_KEPT = ("LD_LIBRARY_PATH",)
_GIVEN = {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Deadline:
    """The time that a caller has, if it is limited."""

    def __init__(self, timeout_s: float | None = None) -> None:
        self._timeout_s = timeout_s
        self._until = math.inf if timeout_s is None else time.monotonic() + timeout_s

    @property
    def left(self) -> float | None:
        """Seconds left, 0 or more; None if there is no limit."""
        return None if self._timeout_s is None else max(0.0, self._until - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self._until

    @property
    def over(self) -> TransientError:
        """The error of a caller whose time is over."""
        return TransientError(f"no decoder was free and done within {self._timeout_s or 0:.3g} s")

    def until(self, seconds: float) -> float:
        """The monotonic time after that many seconds, or the caller's deadline if earlier."""
        return min(time.monotonic() + seconds, self._until)


class DecoderProcess:
    """One process and the caller's end of its pipe; one caller at a time, except for `retire`."""

    _process: "subprocess.Popen[bytes]"
    _pipe: Pipe

    def __init__(self, limits: Limits, starter: ThreadPoolExecutor) -> None:
        self._limits = limits
        self._starter = starter
        self._ready = False
        self.retired = False
        self.fences = Fence(0)

    @property
    def pid(self) -> int:
        """Its process id; 0 before the first start."""
        return self._process.pid if hasattr(self, "_process") else 0

    def start(self) -> None:
        """Start it, in an environment of its own.

        Raises:
            TransientError: the system can't start a process now.
            FatalError: the pool is closed.
        """
        ours, theirs = socket.socketpair()
        environment = _GIVEN | {name: os.environ[name] for name in _KEPT if name in os.environ}
        descriptor = theirs.fileno()
        path = [str(Path(entry).absolute()) for entry in sys.path]
        self._pipe = Pipe(ours)
        self._ready = False
        try:
            self._process = self._starter.submit(
                subprocess.Popen,
                (sys.executable, "-I", "-c", _BOOT, PROGRAM, str(descriptor), *path),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(descriptor,),
            ).result()
        except OSError as error:
            raise TransientError(f"no decoder process can be started: {error}") from error
        except RuntimeError as error:  # the starter thread is gone
            raise FatalError("the decoder pool is closed") from error
        finally:
            theirs.close()
        with contextlib.suppress(OSError):  # it has ended already: noticed below
            self._pipe.send(Tag.LIMITS, wire.pack_limits(self._limits))

    def await_ready(self, patience: Deadline) -> None:
        """Return once the process can be asked; start another one if it has died.

        Raises:
            TransientError: none can be started now, or the caller's time is over.
            FatalError: the pool is closed, or the process ends as it starts.
        """
        if self.retired:
            raise FatalError("the decoder pool is closed")
        # one that sends unasked would answer for the next picture
        if self._process.poll() is not None or (self._ready and not self._pipe.quiet):
            self.kill()
            self._pipe.close()
            self.start()
            self._end_if_retired()
        if self._ready:
            return
        try:
            _, body = self._pipe.receive(wire.STARTING, patience.until(_START_S))
            self.fences = wire.fences_of(body)
        except TimeoutError as error:
            if patience.is_over:
                raise patience.over from error
            self.kill()
            raise TransientError(f"a decoder was not ready after {_START_S:.0f} s") from error
        except (OSError, GarbledError) as error:
            raise FatalError("a decoder process ended as it started; see its output") from error
        self._ready = True

    def ask(
        self,
        job: Job,
        parse: Callable[[memoryview], T],
        memory: Reserve,
        timeout_s: float,
        patience: Deadline,
    ) -> T:
        """Have one picture decoded. An interrupted conversation also ends the process."""
        finished = False
        try:
            began = time.monotonic()
            self._allow_processor(timeout_s)
            until = patience.until(timeout_s)
            tag, body = self._exchange(Tag.JOB, wire.pack_job(job), wire.COSTING, until)
            if tag is Tag.COST:
                cost = wire.cost_of(body, self._limits)
                worked_s = time.monotonic() - began
                if not memory.take(cost, patience.left):
                    raise TimeoutError
                try:
                    until = patience.until(timeout_s - worked_s)
                    tag, body = self._exchange(Tag.GO, (), wire.finishing(job), until)
                finally:
                    memory.give_back(cost)
            answer = wire.poison_of(body) if tag is Tag.POISON else parse(body)
            finished = True
        except TimeoutError as error:
            if patience.is_over:
                raise patience.over from error
            message = f"not decoded within {timeout_s:.3g} s"
            raise PoisonError(ReasonCode.DECODE_TIMEOUT, message) from error
        except (OSError, GarbledError) as error:
            if self.retired:
                raise FatalError("the decoder pool was closed meanwhile") from error
            message = "the process that decoded the picture died"
            if isinstance(error, GarbledError):
                message = "the process that decoded the picture answered nonsense"
            raise PoisonError(ReasonCode.DECODER_CRASHED, message) from error
        finally:
            if not finished:
                self.kill()
        if isinstance(answer, PoisonError):
            raise answer
        return answer

    def kill(self) -> None:
        """End the process, if it was ever started."""
        if hasattr(self, "_process"):
            self._process.kill()
            self._process.wait()

    def retire(self) -> None:
        """Kill it for good, from any thread. The pipe stays open: a caller may be reading it."""
        self.retired = True
        self.kill()

    def let_go(self) -> None:
        """Close the pipe, which nobody reads any more."""
        if hasattr(self, "_pipe"):
            self._pipe.close()

    def _end_if_retired(self) -> None:
        if self.retired:
            self.kill()

    def _exchange(
        self, tag: Tag, parts: tuple[bytes, ...], due: dict[Tag, int], until: float
    ) -> tuple[Tag, memoryview]:
        self._pipe.send(tag, *parts, until=until)
        return self._pipe.receive(due, until)

    def _allow_processor(self, seconds: float) -> None:
        """Let the kernel end it after so much CPU time, in case nobody else does."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            ticks = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
            used = sum(map(int, ticks)) // os.sysconf("SC_CLK_TCK")
            most = used + 2 * math.ceil(seconds) + 2
            resource.prlimit(self.pid, resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
