"""A few processes that decode pictures, so that a crash or a hang costs one picture.

A child converses with one caller at a time over its own pipe, and nothing else is shared:

1. the caller sends the bytes; the child identifies them and answers how many pixels they hold
2. the caller reserves that many, which bounds the memory of all children together
3. the caller says how to finish; the child decodes and answers the result

A child that takes too long is killed, and one that died is noticed by its pipe; the next
caller starts another in its place. Children are spawned, never forked: a fork would copy
locks that a Kafka client's threads hold.
"""

import atexit
import multiprocessing
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

from PIL import Image

from encoders.images import Limits, Picture, identify, render, thumbnail
from encoders.port import Crop
from encoders.reserve import Reserve
from schemas.errors import FatalError, PoisonError, ReasonCode, TransientError

T = TypeVar("T")

#: Longest wait for a child to be up, in seconds; it takes one, on a crowded machine several.
_START_S = 60.0


class DecoderPool:
    """Decodes in child processes. Thread-safe: use as many threads as there are workers.

    Args:
        workers: child processes.
        timeout_s: seconds that a child may work on one picture; waiting is not counted.
        limits: what a picture may ask for.
        pixels_in_flight: pixels that all children together may hold, about 8 bytes each; at
            least, and by default, those of one picture of the largest size.
    """

    def __init__(
        self, workers: int, timeout_s: float, limits: Limits, pixels_in_flight: int = 0
    ) -> None:
        self._timeout_s = timeout_s
        self._limits = limits
        self._pixels = Reserve(max(limits.max_pixels, pixels_in_flight))
        self._children = [_Child() for _ in range(workers)]
        self._idle: SimpleQueue[_Child | None] = SimpleQueue()

    def start(self) -> None:
        """Spawn the children and wait until each is ready. Call it before any Kafka client.

        Raises:
            TransientError: the system starts no process now.
            FatalError: a child ends as it starts.
        """
        # registered after, hence run before, multiprocessing's own end, which would wait for the
        # children to heed a SIGTERM
        atexit.register(self.close)
        for child in self._children:
            child.start()
        for child in self._children:
            child.await_ready()
            self._idle.put(child)

    def decode(self, data: bytes, crop: Crop) -> Picture:
        """Decode one picture and cut it for a model; blocks until a child is free and done.

        Raises:
            PoisonError: the codes of `images.decode`, DECODE_TIMEOUT or DECODER_CRASHED.
            TransientError: a child that died can't be replaced now.
            FatalError: the pool is closed.
        """
        return self._run(data, partial(render, crop=crop))

    def thumbnail(self, data: bytes, side: int) -> bytes:
        """A JPEG of the picture as displayed, at most `side` pixels a side; raises as `decode`."""
        return self._run(data, partial(thumbnail, side=side))

    def close(self) -> None:
        """Kill the children; callers that still wait get a FatalError."""
        atexit.unregister(self.close)
        self._idle.put(None)
        for child in self._children:
            child.retire()

    def _run(self, data: bytes, finish: Callable[[Image.Image], T]) -> T:
        child = self._idle.get()
        try:
            if child is None:
                raise FatalError("the decoder pool is closed")
            child.await_ready()
            return child.ask((data, self._limits), self._pixels, finish, self._timeout_s)
        finally:
            self._idle.put(child)


class _Child:
    """One decoder process and the caller's end of its pipe."""

    _process: multiprocessing.process.BaseProcess
    _pipe: "Connection[Any, Any]"

    def __init__(self) -> None:
        self._ready = False
        self._retired = False

    def start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs,), name="decoder", daemon=True)
        self._ready = False
        try:
            self._process.start()
        except OSError as error:
            raise TransientError(f"no decoder process can be started: {error}") from error
        finally:
            theirs.close()

    def await_ready(self) -> None:
        """Return once the process can be asked; start another where it has died."""
        if self._retired:
            raise FatalError("the decoder pool is closed")
        if not self._process.is_alive():
            self._pipe.close()
            self.start()
        if self._ready:
            return
        if not self._pipe.poll(_START_S):
            self.kill()
            raise TransientError(f"a decoder process was not ready after {_START_S:.0f} s")
        try:
            self._pipe.recv()
        except EOFError as error:
            raise FatalError("a decoder process ended as it started; see its output") from error
        self._ready = True

    def ask(
        self,
        job: tuple[bytes, Limits],
        pixels: Reserve,
        finish: Callable[[Image.Image], T],
        timeout_s: float,
    ) -> T:
        """Converse over one picture. A conversation that breaks off takes the process with it."""
        finished = False
        try:
            began = time.monotonic()
            answer = self._exchange(job, timeout_s)
            worked_s = time.monotonic() - began
            if not isinstance(answer, PoisonError):
                with pixels.of(answer):
                    answer = self._exchange(finish, max(0, timeout_s - worked_s))
            finished = True
        finally:
            if not finished:
                self.kill()
        if isinstance(answer, PoisonError):
            raise answer
        result: T = answer
        return result

    def _exchange(self, message: object, timeout_s: float) -> Any:
        try:
            self._pipe.send(message)
            if self._pipe.poll(timeout_s):
                return self._pipe.recv()
        except (EOFError, OSError) as error:
            if self._retired:
                raise FatalError("the decoder pool was closed meanwhile") from error
            raise PoisonError(
                ReasonCode.DECODER_CRASHED, "the process that decoded the picture died"
            ) from error
        raise PoisonError(ReasonCode.DECODE_TIMEOUT, f"not decoded within {timeout_s:.3g} s")

    def kill(self) -> None:
        if self._process.pid is not None:  # else the system refused to start it
            self._process.kill()
            self._process.join()

    def retire(self) -> None:
        """Kill for good, from any thread. The pipe stays open: a caller may be reading it."""
        self._retired = True
        if hasattr(self, "_process"):
            self.kill()


def _serve(pipe: "Connection[Any, Any]") -> None:
    """A child's life: converse until the pipe closes, which it does when the parent dies.

    Signals are the parent's to heed. A terminal or a service manager may send them to all
    processes of a worker at once, and what is being decoded then is not to blame.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Image.init()
    try:
        pipe.send(None)
        while True:
            _converse(pipe)
    except (EOFError, OSError):
        return


def _converse(pipe: "Connection[Any, Any]") -> None:
    data, limits = pipe.recv()
    try:
        image = identify(data, limits)
        pipe.send(image.width * image.height)
        finish = pipe.recv()
        pipe.send(finish(image))
    except PoisonError as error:
        pipe.send(error)
