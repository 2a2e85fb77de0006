"""Run a command of pixtide with one thing in it that goes wrong:

    python tests/faults/sabotage.py WHAT COMMAND ARGUMENT…

So that a fault comes at a certain point of the code, and not about when a test thinks so.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a program, it finds `tests` by that

from pixtide.encoders.device import Device
from pixtide.encoders.open_clip.encoder import OpenClipEncoder
from pixtide.encoders.pictures import decoder_process
from pixtide.encoders.port import Pixels, Vectors
from pixtide.streams.cli.main import main
from pixtide.streams.ingest.commits import Commits
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.query.record_batches import FetchedBytes
from tests.faults.deadly_decoder import DEADLY as DEADLY

#: The most rows that the small device takes at once, and how many the fragile one lives through.
MOST_ROWS, LAST_ROWS = 2, 8
#: What the mortal fetcher dies of.
LAST_WORDS = b"the last words"
#: The group loses a member that doesn't poll for so long; the slow model takes longer.
POLL_WITHIN_S, SLOW_S = 6, 8

_Forward = Callable[[slice], torch.Tensor]


def program(what: str) -> tuple[str, ...]:
    """For `Deployment.program`."""
    return (sys.executable, str(Path(__file__)), what)


def killed_before_its_commit() -> None:
    """All that was read is written or dead-lettered, and delivered; then comes SIGKILL."""

    def now_and_then(self: Commits, _: object) -> None:
        # an end that nothing has come before is committable, too
        if any(self._flight.committable().values()) and not self._flight:
            os.kill(os.getpid(), signal.SIGKILL)

    _replace(Commits, "now_and_then", now_and_then)


def small_device() -> None:
    """Out of memory for more than `MOST_ROWS` at once."""

    def check(rows: int) -> None:
        if rows > MOST_ROWS:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    _before_each_forward(check)


def device_lost() -> None:
    """After `LAST_ROWS`, whatever is asked of the device fails."""
    seen = 0

    def check(rows: int) -> None:
        nonlocal seen
        seen += rows
        if seen > LAST_ROWS:
            raise RuntimeError("CUDA error: unspecified launch failure (simulated)")

    _before_each_forward(check)


def bad_pictures() -> None:
    """The model makes NaN of black pictures; those of the size `DEADLY` kill their decoder."""
    encode = OpenClipEncoder.encode_pictures

    def encode_pictures(self: OpenClipEncoder, pixels: Pixels) -> Vectors:
        vectors = encode(self, pixels)
        vectors[pixels.reshape(len(pixels), -1).max(axis=1) == 0] = float("nan")
        return vectors

    _replace(OpenClipEncoder, "encode_pictures", encode_pictures)
    _replace(decoder_process, "PROGRAM", "tests.faults.deadly_decoder")


def fetcher_dies() -> None:
    """Of a query consumer, by a request that holds `LAST_WORDS`; it dies without a word."""
    read = FetchedBytes.__init__

    def read_or_die(self: FetchedBytes, data: bytes | None) -> None:
        if LAST_WORDS in (data or b""):
            raise RuntimeError("the fetcher dies (simulated)")
        read(self, data)

    _replace(FetchedBytes, "__init__", read_or_die)


def slow_model() -> None:
    """Encoding a batch takes longer than a member of the group may be silent."""
    consumer = kafka_clients.ingest_consumer
    limit: dict[str, Any] = {
        "max.poll.interval.ms": POLL_WITHIN_S * 1000,
        "session.timeout.ms": POLL_WITHIN_S * 1000,  # may not be longer, in no member either
    }
    _replace(kafka_clients, "ingest_consumer", partial(consumer, **limit))
    warm_up, encode = OpenClipEncoder.warm_up, OpenClipEncoder.encode_pictures

    def encode_pictures(self: OpenClipEncoder, pixels: Pixels) -> Vectors:
        time.sleep(SLOW_S)
        return encode(self, pixels)

    def warm_up_then_slow_down(self: OpenClipEncoder) -> None:
        warm_up(self)
        _replace(OpenClipEncoder, "encode_pictures", encode_pictures)

    _replace(OpenClipEncoder, "warm_up", warm_up_then_slow_down)


def _replace(owner: object, name: str, by: object) -> None:
    setattr(owner, name, by)


def _before_each_forward(check: Callable[[int], None]) -> None:
    encode = Device.encode

    def checked(self: Device, count: int, dimension: int, forward: _Forward) -> Vectors:
        def guarded(batch: slice) -> torch.Tensor:
            check(batch.stop - batch.start)
            return forward(batch)

        return encode(self, count, dimension, guarded)

    _replace(Device, "encode", checked)


_SABOTAGES = {
    each.__name__: each
    for each in (
        killed_before_its_commit,
        small_device,
        device_lost,
        bad_pictures,
        fetcher_dies,
        slow_model,
    )
}

if __name__ == "__main__":
    _SABOTAGES[sys.argv.pop(1)]()
    main()
