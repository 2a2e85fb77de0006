"""The decoder process: get ready, give up what it won't need, and decode what comes.

Everything that decoding loads lazily is loaded first, by decoding one small picture of each kind: a
confined process can't open files, and so can't import modules.
"""

import contextlib
import importlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import NoReturn

from PIL import AvifImagePlugin, Image

from pixtide.encoders.pictures import samples
from pixtide.encoders.pictures.confinement import confine, end_with_parent
from pixtide.encoders.pictures.decoder_wire import (
    Job,
    Pipe,
    Tag,
    job_bound,
    job_of,
    limits_of,
    pack_cost,
    pack_fences,
    pack_picture,
    pack_poison,
)
from pixtide.encoders.pictures.images import Limits, identify, memory_of, render, thumbnail
from pixtide.encoders.port import Crop
from pixtide.schemas.errors import PoisonError, ReasonCode

_LIMITS_BYTES = 40
#: How many copies of a file its reader may make.
_COPIES = 4
_ROOM = 32 * 2**20


def main(descriptor: int) -> NoReturn:
    """Serve the pool at the other end of that socket until the pool closes it.

    Only the parent handles signals. A terminal or a service manager may send them to all processes
    of a worker at once, and the picture that is being decoded then is not to blame.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    pipe = Pipe(socket.socket(fileno=descriptor))
    with contextlib.suppress(OSError):
        _, body = pipe.receive({Tag.LIMITS: _LIMITS_BYTES})
        limits = limits_of(body)
        warm_up()
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (its descriptor is of use)
            os.dup2(nowhere.fileno(), sys.stderr.fileno())
        memory = limits.max_memory + _COPIES * limits.max_data_bytes + _ROOM
        pipe.send(Tag.READY, pack_fences(confine(memory)))
        while True:
            _, body = pipe.receive({Tag.JOB: job_bound(limits)})
            converse(pipe, job_of(body), limits)
    os._exit(0)


def converse(pipe: Pipe, job: Job, limits: Limits) -> None:
    """Decode one picture, from its header to its pixels, with the pool's permission in between."""
    try:
        with costs_one_picture():
            image = identify(job.data, limits)
            side = job.crop.resize if job.crop else job.side
            memory = memory_of(image, job.data, limits, side)
        pipe.send(Tag.COST, pack_cost(memory))
        pipe.receive({Tag.GO: 0})
        with costs_one_picture():
            if job.crop:
                tag, answer = Tag.PICTURE, pack_picture(render(image, job.crop, limits))
            else:
                tag, answer = Tag.THUMBNAIL, thumbnail(image, job.side, limits)
    except PoisonError as error:
        tag, answer = Tag.POISON, pack_poison(error)
    pipe.send(tag, answer)


@contextlib.contextmanager
def costs_one_picture() -> Iterator[None]:
    """Turn any error inside into a verdict on the picture; this process lives on."""
    try:
        yield
    except PoisonError:
        raise
    except MemoryError as error:
        message = "decoding takes more memory than a picture may"
        raise PoisonError(ReasonCode.PIXEL_LIMIT, message) from error
    except Exception as error:
        message = f"decoding failed: {type(error).__name__}: {error}"
        raise PoisonError(ReasonCode.DECODER_CRASHED, message) from error


def warm_up() -> None:
    """Load every reader, conversion and text encoding that a picture may need."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the pool decodes pictures in parallel
    Image.init()
    for name in ("ascii", "latin_1", "utf_8", "utf_16", "utf_16_le", "utf_16_be", "utf_32"):
        importlib.import_module(f"encodings.{name}")
    limits = Limits()
    for data in samples.pictures():
        render(identify(data, limits), Crop(8, 8), limits)
        thumbnail(identify(data, limits), 8, limits)
