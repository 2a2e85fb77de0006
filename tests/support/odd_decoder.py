"""A decoder like the real one, but for "pictures" that begin with `odd:` and say what it does.

Stands for a decoder that a picture has taken over, or that has an error of its own: run by a
pool whose `PROGRAM` is this module.
"""

import ctypes
import os
import pickle
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pixtide.encoders.pictures import decoder_child
from pixtide.encoders.pictures.decoder_wire import (
    Job,
    Pipe,
    Tag,
    pack_cost,
    pack_picture,
    pack_poison,
)
from pixtide.encoders.pictures.images import Limits, decode
from pixtide.schemas.errors import PoisonError, ReasonCode
from tests.support.pictures import jpeg

main = decoder_child.main
_converse = decoder_child.converse


def odd(what: str) -> bytes:
    """A "picture" for this decoder."""
    return f"odd:{what}".encode()


def _odd_converse(pipe: Pipe, job: Job, limits: Limits) -> None:
    if not job.data.startswith(b"odd:"):
        _converse(pipe, job, limits)
        return
    name, _, argument = job.data.decode().removeprefix("odd:").partition(":")
    if name in _ANSWERS:
        _ANSWERS[name](pipe, job, limits)
        return
    with_answer = PoisonError(ReasonCode.EMPTY_IMAGE, _tried(_PROBES[name], argument))
    pipe.send(Tag.POISON, pack_poison(with_answer))


decoder_child.converse = _odd_converse


# How it may misbehave towards its pool


def _with_leave(pipe: Pipe) -> None:
    pipe.send(Tag.COST, pack_cost(1))
    pipe.receive({Tag.GO: 0})


def _late(pipe: Pipe, *_: object) -> None:
    _with_leave(pipe)
    time.sleep(600)


def _die(*_: object) -> None:
    os._exit(9)


def _crash(*_: object) -> None:
    ctypes.string_at(0)


def _fail(pipe: Pipe, *_: object) -> None:
    try:
        with decoder_child.costs_one_picture():
            raise NotImplementedError("an error that nobody thought of")
    except PoisonError as error:
        pipe.send(Tag.POISON, pack_poison(error))


def _twice(pipe: Pipe, job: Job, limits: Limits) -> None:
    """The answer, and one more, which the next picture would get."""
    _with_leave(pipe)
    assert job.crop is not None
    picture = pack_picture(decode(jpeg(1), job.crop, limits))
    answers = (Tag.PICTURE, picture), (Tag.COST, pack_cost(1))
    _raw(pipe, b"".join(struct.pack("<BI", tag, len(body)) + body for tag, body in answers))


def _after(tag: Tag | int, body: bytes) -> Callable[[Pipe, Job, Limits], None]:
    def answer(pipe: Pipe, *_: object) -> None:
        _with_leave(pipe)
        _raw(pipe, struct.pack("<BI", tag, len(body)) + body)

    return answer


def _at_once(data: bytes) -> Callable[[Pipe, Job, Limits], None]:
    return lambda pipe, *_: _raw(pipe, data)


def _raw(pipe: Pipe, data: bytes) -> None:
    pipe._end.sendall(data)


class _Bomb:
    """Runs a command in whoever unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch PWNED",)


def _picture(width: int, height: int, kind: int, count: int) -> bytes:
    return struct.pack("<IIB", width, height, kind) + b"\0" * count


#: By name: lies that the pool must see through. The crop of the tests is of 16 × 16.
LIES: dict[str, Callable[[Pipe, Job, Limits], None]] = {
    "pickle": _at_once(pickle.dumps(_Bomb())),
    "framed pickle": _after(Tag.PICTURE, pickle.dumps(_Bomb())),
    "huge frame": _at_once(struct.pack("<BI", Tag.POISON, 2**32 - 1)),
    "no such tag": _at_once(struct.pack("<BI", 200, 0)),
    "not yet due": _at_once(struct.pack("<BI", Tag.PICTURE, 777)),
    "ready again": _at_once(struct.pack("<BIB", Tag.READY, 1, 3)),
    "no cost": _at_once(struct.pack("<BI", Tag.COST, 0)),
    "endless cost": _at_once(struct.pack("<BIQ", Tag.COST, 8, 2**64 - 1)),
    "no code": _at_once(struct.pack("<BI", Tag.POISON, 0)),
    "unknown code": _at_once(struct.pack("<BIB", Tag.POISON, 1, 99)),
    "no text": _at_once(struct.pack("<BIB", Tag.POISON, 3, 0) + b"\xff\xfe"),
    "too few pixels": _after(Tag.PICTURE, _picture(9, 9, 0, 100)),
    "too many pixels": _after(Tag.PICTURE, _picture(9, 9, 0, 3 * 17 * 17)),
    "no width": _after(Tag.PICTURE, _picture(0, 9, 0, 768)),
    "endless width": _after(Tag.PICTURE, _picture(2**32 - 1, 2**32 - 1, 0, 768)),
    "no format": _after(Tag.PICTURE, _picture(9, 9, 99, 768)),
    "another's answer": _after(Tag.THUMBNAIL, b"\xff\xd8\xff"),
}
#: A message that would clear a line of a terminal, begin another and turn the text around.
_FORGED = "a\n\x1b[2Kb\x9b\u202e".encode()
_ANSWERS: dict[str, Callable[[Pipe, Job, Limits], None]] = LIES | {
    "late": _late,
    "die": _die,
    "crash": _crash,
    "fail": _fail,
    "twice": _twice,
    "forged": _at_once(struct.pack("<BIB", Tag.POISON, 1 + len(_FORGED), 0) + _FORGED),
    "no jpeg": _after(Tag.THUMBNAIL, b"<script>"),
}


# What it may try against its host


def _tried(probe: Callable[[str], object], argument: str) -> str:
    try:
        return f"done: {probe(argument)}"
    except MemoryError:
        return "refused: MemoryError"
    except OSError as error:
        return f"refused: {error.strerror}"


def _environment(_: str) -> object:
    return sorted(os.environ)


def _descriptors(_: str) -> object:
    """Those open, by what they are."""
    found = []
    for number in range(256):
        try:
            mode = os.fstat(number).st_mode
        except OSError:
            continue
        found.append(f"{number}:{mode >> 12:o}")
    return " ".join(found)


def _read(path: str) -> object:
    return len(Path(path).read_bytes())


def _write(path: str) -> object:
    return Path(path).write_text("x")


def _dial(port: str) -> object:
    with socket.socket() as dialled:
        dialled.connect(("127.0.0.1", int(port)))
    return "connected"


def _dial_local(name: str) -> object:
    with socket.socket(socket.AF_UNIX) as dialled:
        dialled.connect(f"\0{name}")
    return "connected"


def _fork(_: str) -> object:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return "a process"


def _raise_limits(_: str) -> object:
    most = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return "unlimited"


def _peek(_: str) -> object:
    """Read the pool's memory, by the call of debuggers."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = {"x86_64": 101, "aarch64": 117}[os.uname().machine]
    if libc.syscall(number, 16, os.getppid(), 0, 0) != 0:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "attached"


def _grow(mebibytes: str) -> object:
    return len(bytearray(int(mebibytes) * 2**20))


def _spin(_: str) -> object:
    while True:
        pass


_PROBES: dict[str, Callable[[str], object]] = {
    "environment": _environment,
    "descriptors": _descriptors,
    "read": _read,
    "list": lambda path: len(list(Path(path).iterdir())),
    "write": _write,
    "remove": lambda path: Path(path).unlink(),
    "socket": _dial,
    "local socket": _dial_local,
    "fork": _fork,
    "exec": lambda _: os.execv("/bin/true", ["true"]),
    "spawn": lambda _: subprocess.run([sys.executable, "-V"], check=False).returncode,
    "signal": lambda _: os.kill(os.getppid(), 0),
    "peek": _peek,
    "raise limits": _raise_limits,
    "grow": _grow,
    "spin": _spin,
}
