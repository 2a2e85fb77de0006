"""A few processes that decode pictures: one that crashes its decoder costs only itself.

A decoder serves one caller at a time over its own pipe, in frames of a fixed layout:

1. the caller sends the bytes; the decoder identifies them and answers how much memory they take
2. the caller reserves that much, which bounds the memory of all decoders together
3. the caller says to go on; the decoder decodes and answers the result

A decoder that takes too long or sends invalid frames is killed. One that died is noticed by its
pipe. The next caller starts another in its place. Decoders are separate programs with an empty
environment. They have given up files, network and everything else before a picture comes: see
`confinement`. `decoder_wire` checks their answers.
"""

import atexit
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TypeVar

from pixtide.encoders.pictures import decoder_wire as wire
from pixtide.encoders.pictures.confinement import Fence
from pixtide.encoders.pictures.decoder_process import Deadline, DecoderProcess
from pixtide.encoders.pictures.decoder_wire import Job
from pixtide.encoders.pictures.images import Limits, Picture
from pixtide.encoders.port import Crop
from pixtide.encoders.reserve import Reserve
from pixtide.schemas.errors import FatalError, PoisonError, ReasonCode

logger = logging.getLogger(__name__)

T = TypeVar("T")


class DecoderPool:
    """Decodes in child processes. Thread-safe: use as many threads as there are workers.

    Args:
        workers: child processes.
        timeout_s: seconds that a child may work on one picture; waiting is not counted.
        limits: what a picture may need. All children together may take the memory of the most
            demanding picture.
    """

    def __init__(self, workers: int, timeout_s: float, limits: Limits) -> None:
        self._timeout_s = timeout_s
        self._limits = limits
        self._memory = Reserve(limits.max_memory)
        # the kernel ends a child when the thread that started it ends, so use a thread that stays
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decoder-starter")
        self._children = [DecoderProcess(limits, self._starter) for _ in range(workers)]
        self._idle: SimpleQueue[DecoderProcess | None] = SimpleQueue()

    def start(self) -> None:
        """Start the children and wait until each is ready. Call it before making Kafka clients.

        Raises:
            TransientError: the system can't start a process now.
            FatalError: a child ends as it starts.
        """
        atexit.register(self.close)
        for child in self._children:
            child.start()
        for child in self._children:
            child.await_ready(Deadline())
            self._idle.put(child)
        lacking = [
            str(fence.name).lower() for fence in Fence if not self._children[0].fences & fence
        ]
        if lacking:
            logger.warning(
                "this system has no %s: a decoder that a picture takes over is held in by less; "
                "see docs/security.md",
                " and no ".join(lacking),
            )

    def decode(self, data: bytes, crop: Crop, timeout_s: float | None = None) -> Picture:
        """Decode one picture and crop it for a model; blocks until a child is free and done.

        Args:
            data: the file.
            crop: how to crop it.
            timeout_s: seconds that the caller has in total, including waiting.

        Raises:
            PoisonError: the codes of `images.decode`, DECODE_TIMEOUT or DECODER_CRASHED.
            TransientError: a child that died can't be replaced now, or `timeout_s` is over.
            FatalError: the pool is closed.
        """
        job = Job(data, crop)
        return self._run(job, timeout_s, lambda body: wire.picture_of(body, job, self._limits))

    def thumbnail(self, data: bytes, side: int, timeout_s: float | None = None) -> bytes:
        """A JPEG of the picture as displayed, at most `side` pixels a side; raises as `decode`."""
        return self._run(Job(data, None, side), timeout_s, wire.thumbnail_of)

    def close(self) -> None:
        """Kill the children; callers that still wait get a FatalError."""
        atexit.unregister(self.close)
        for child in self._children:
            child.retire()
        with contextlib.suppress(Empty):
            while child_or_end := self._idle.get_nowait():
                child_or_end.let_go()
        self._idle.put(None)
        self._starter.shutdown(wait=False)

    def _run(self, job: Job, timeout_s: float | None, parse: Callable[[memoryview], T]) -> T:
        if len(job.data) > self._limits.max_data_bytes:
            raise PoisonError(
                ReasonCode.TOO_LARGE,
                f"{len(job.data)} bytes; at most {self._limits.max_data_bytes} are decoded",
            )
        patience = Deadline(timeout_s)
        try:
            child = self._idle.get(timeout=patience.left)
        except Empty as error:
            raise patience.over from error
        try:
            if child is None:
                raise FatalError("the decoder pool is closed")
            child.await_ready(patience)
            return child.ask(job, parse, self._memory, self._timeout_s, patience)
        finally:
            if child is not None and child.retired:
                child.let_go()
            else:
                self._idle.put(child)
