"""The protocol of a pool and a decoder: frames of a fixed layout, one pipe for each decoder.

A frame is a tag of one byte, the length of its body in four bytes, and the body. Numbers are
little-endian. The picture that a decoder read may have taken it over. So its frames are checked
before they are used: a tag that isn't due, a length beyond its limit, a number out of range or an
invalid text is a `GarbledError`. Nothing is ever unpickled.

1. pool to decoder, once: LIMITS
2. decoder to pool, once: READY, with the fences that confine it
3. pool to decoder: JOB, and the file's bytes
4. decoder to pool: COST, the bytes of memory that it takes; or POISON
5. pool to decoder: GO
6. decoder to pool: PICTURE or THUMBNAIL; or POISON
"""

import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import Literal

import numpy as np

from pixtide.encoders.pictures.confinement import Fence
from pixtide.encoders.pictures.formats import NAMES
from pixtide.encoders.pictures.images import Limits, Picture
from pixtide.encoders.port import Crop
from pixtide.schemas.errors import PoisonError, ReasonCode

_FRAME = struct.Struct("<BI")
_LIMITS = struct.Struct("<5Q")
_JOB = struct.Struct("<BIIBBBQ")
_COST = struct.Struct("<Q")
_PICTURE = struct.Struct("<IIB")
_MODES: tuple[Literal["shortest", "squash", "longest"], ...] = ("shortest", "squash", "longest")
_INTERPOLATIONS: tuple[Literal["bicubic", "bilinear"], ...] = ("bicubic", "bilinear")
#: The codes that a decoder may send; a code's index in here is its number.
_CODES = (
    ReasonCode.EMPTY_IMAGE,
    ReasonCode.TOO_LARGE,
    ReasonCode.TRUNCATED_IMAGE,
    ReasonCode.UNIDENTIFIED_FORMAT,
    ReasonCode.FORMAT_NOT_ALLOWED,
    ReasonCode.PIXEL_LIMIT,
    ReasonCode.DIMENSION_LIMIT,
    ReasonCode.METADATA_LIMIT,
    ReasonCode.DECODER_CRASHED,
)
_MAX_MESSAGE_BYTES = 1000
_JPEG = b"\xff\xd8\xff"
_U64 = 2**64 - 1


class GarbledError(Exception):
    """The other side sent something invalid."""


class Tag(IntEnum):
    """The type of a frame."""

    LIMITS = 0
    READY = 1
    JOB = 2
    COST = 3
    GO = 4
    PICTURE = 5
    THUMBNAIL = 6
    POISON = 7


@dataclass(frozen=True)
class Job:
    """One picture: cropped for a model, or a thumbnail if `crop` is None."""

    data: bytes
    crop: Crop | None
    side: int = 0

    @property
    def most_bytes(self) -> int:
        """The longest answer."""
        if self.crop is not None:
            return _PICTURE.size + 3 * self.crop.size**2
        return 4 * self.side**2 + 4096


class Pipe:
    """One end of the connection. Not for several threads at once."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._timeout_s: float | None = None

    def send(self, tag: Tag, *parts: bytes, until: float | None = None) -> None:
        """Raises OSError, also if it isn't done by that monotonic time."""
        for part in (_FRAME.pack(tag, sum(map(len, parts))), *parts):
            self._wait(_left(until))
            self._end.sendall(part)

    def receive(
        self, most: Mapping[Tag, int], until: float | None = None
    ) -> tuple[Tag, memoryview]:
        """A frame with one of these tags, and its body, which has at most that many bytes.

        Raises:
            GarbledError: it is another frame, or longer.
            OSError: the other side is gone; TimeoutError if no frame comes in time.
        """
        number, length = _FRAME.unpack(self._exactly(_FRAME.size, until))
        if number not in most or length > most[Tag(number)]:
            raise GarbledError(f"a frame {number} of {length} bytes")
        return Tag(number), self._exactly(length, until)

    @property
    def quiet(self) -> bool:
        """Whether nothing waits to be read, and the other side is still connected."""
        self._wait(0)
        try:
            self._end.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the connection."""
        self._end.close()

    def _exactly(self, count: int, until: float | None) -> memoryview:
        body = memoryview(bytearray(count))
        there = 0
        while there < count:
            self._wait(_left(until))
            got = self._end.recv_into(body[there:])
            if got == 0:
                raise ConnectionResetError("the other side is gone")
            there += got
        return body

    def _wait(self, timeout_s: float | None) -> None:
        """Set the timeout of the next call, unless it is set already.

        A confined decoder can't change it any more.
        """
        if timeout_s != self._timeout_s:
            self._end.settimeout(timeout_s)
            self._timeout_s = timeout_s


def _left(until: float | None) -> float | None:
    """Seconds from now; always more than 0, which would mean not to wait at all."""
    return None if until is None else max(1e-3, until - time.monotonic())


# pool to decoder


def pack_limits(limits: Limits) -> bytes:
    """The body of LIMITS."""
    return _LIMITS.pack(*(min(each, _U64) for each in astuple(limits)))


def limits_of(body: memoryview) -> Limits:
    """Parse the body of LIMITS."""
    return Limits(*_LIMITS.unpack(body))


def pack_job(job: Job) -> tuple[bytes, bytes]:
    """The body of JOB: what to do, and the file."""
    crop = job.crop or Crop(size=0, resize=job.side)
    head = _JOB.pack(
        job.crop is not None,
        crop.size,
        crop.resize,
        _MODES.index(crop.mode),
        _INTERPOLATIONS.index(crop.interpolation),
        crop.fill,
        len(job.data),
    )
    return head, job.data


def job_of(body: memoryview) -> Job:
    """Parse the body of JOB."""
    for_model, size, resize, mode, interpolation, fill, length = _JOB.unpack_from(body)
    data = bytes(body[_JOB.size :])
    if len(data) != length:
        raise GarbledError("a job of another length")
    if not for_model:
        return Job(data, None, resize)
    return Job(data, Crop(size, resize, _MODES[mode], _INTERPOLATIONS[interpolation], fill))


def job_bound(limits: Limits) -> int:
    """The longest body of JOB."""
    return _JOB.size + limits.max_data_bytes


# decoder to pool


def pack_fences(fences: Fence) -> bytes:
    """The body of READY."""
    return bytes((fences,))


def fences_of(body: memoryview) -> Fence:
    """Parse the body of READY. Raises GarbledError."""
    if len(body) != 1 or body[0] > Fence.SECCOMP | Fence.LANDLOCK:
        raise GarbledError("no fences")
    return Fence(body[0])


def pack_cost(memory: int) -> bytes:
    """The body of COST."""
    return _COST.pack(memory)


def cost_of(body: memoryview, limits: Limits) -> int:
    """Parse the body of COST. Raises GarbledError."""
    if len(body) == _COST.size:
        cost = int(_COST.unpack(body)[0])
        if cost <= limits.max_memory:
            return cost
    raise GarbledError("a picture that takes more memory than it may")


def pack_picture(picture: Picture) -> bytes:
    """The body of PICTURE."""
    head = _PICTURE.pack(picture.width, picture.height, NAMES.index(picture.format))
    return head + picture.pixels.tobytes()


def picture_of(body: memoryview, job: Job, limits: Limits) -> Picture:
    """Parse the body of PICTURE. Raises GarbledError."""
    if job.crop is None or len(body) != job.most_bytes:
        raise GarbledError("a picture of another size")
    width, height, number = _PICTURE.unpack_from(body)
    within = 0 < width * height <= limits.max_pixels
    if not within or max(width, height) > limits.max_dimension or number >= len(NAMES):
        raise GarbledError("a picture of impossible size or format")
    shape = (job.crop.size, job.crop.size, 3)
    pixels = np.frombuffer(body[_PICTURE.size :], np.uint8).reshape(shape)
    return Picture(pixels, width, height, NAMES[number])


def thumbnail_of(body: memoryview) -> bytes:
    """Parse the body of THUMBNAIL. Raises GarbledError."""
    data = bytes(body)
    if not data.startswith(_JPEG):
        raise GarbledError("a thumbnail that is no JPEG")
    return data


def pack_poison(error: PoisonError) -> bytes:
    """The body of POISON."""
    message = error.message.encode(errors="replace")[:_MAX_MESSAGE_BYTES]
    return bytes((_CODES.index(error.code),)) + message.decode(errors="ignore").encode()


def poison_of(body: memoryview) -> PoisonError:
    """Parse the body of POISON; replaces what can't be shown in its message.

    Raises:
        GarbledError: there is no such code, or the message is no text.
    """
    if not body or body[0] >= len(_CODES):
        raise GarbledError("no such code")
    try:
        message = bytes(body[1:]).decode()
    except UnicodeDecodeError as error:
        raise GarbledError("a message that is no text") from error
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in message)
    return PoisonError(_CODES[body[0]], shown)


#: The frames that may come before a decoder works on pictures, and those about a picture.
STARTING = {Tag.READY: 1}
COSTING = {Tag.COST: _COST.size, Tag.POISON: 1 + _MAX_MESSAGE_BYTES}


def finishing(job: Job) -> dict[Tag, int]:
    """The frames that may end a job."""
    done = Tag.THUMBNAIL if job.crop is None else Tag.PICTURE
    return {done: job.most_bytes, Tag.POISON: 1 + _MAX_MESSAGE_BYTES}
