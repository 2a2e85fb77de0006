"""What a process gives up before it touches a stranger's bytes. Linux only, and for good.

Several fences, since not every kernel has each: limits of resources, no privileges, no files and
no network by Landlock (5.13 and newer), and a short list of system calls by seccomp.
"""

import ctypes
import os
import platform
import resource
import signal
from enum import IntFlag
from pathlib import Path

from pixtide.encoders.pictures.seccomp import filter_system_calls, prctl

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_CAPABILITY_VERSION = 0x20080522
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
#: By the version of Landlock that brought them: rights to files.
_FILE_RIGHTS = {1: 0x1FFF, 2: 0x2000, 3: 0x4000, 5: 0x8000}
_TCP_SINCE, _TCP = 4, 0x3
_SCOPES_SINCE, _SCOPES = 6, 0x3  # abstract sockets and signals beyond this process


class Fence(IntFlag):
    """What holds a process in, beside its limits, which every kernel has."""

    SECCOMP = 1
    LANDLOCK = 2


def end_with_parent() -> None:
    """Have the kernel end this process when the thread that started it ends."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def confine(memory: int) -> Fence:
    """Give up all but computing within `memory` further bytes and talking over open pipes.

    Returns:
        Which fences this kernel has.
    """
    _be_the_first_to_go()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _drop_privileges()
    fences = Fence(0)
    if _forbid_files_and_network():
        fences |= Fence.LANDLOCK
    _limit(used + memory)
    if filter_system_calls():
        fences |= Fence.SECCOMP
    else:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    return fences


def _be_the_first_to_go() -> None:
    """Where the machine's memory ends, the kernel shall end this process and no other."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return


def _limit(memory: int) -> None:
    for which, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),  # what is open stays so, and nothing else can be opened
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        _, hard = resource.getrlimit(which)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (least, least))


def _drop_privileges() -> None:
    for capability in range(64):
        prctl(_PR_CAPBSET_DROP, capability)
    none = (ctypes.c_uint32 * 6)()
    ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), none)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _forbid_files_and_network() -> bool:
    """Landlock with every right handled and none granted; False where the kernel has none."""
    if platform.machine() not in ("x86_64", "aarch64"):
        return False  # the numbers of the calls are known there
    version = _call(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return False
    rights = sum(right for since, right in _FILE_RIGHTS.items() if since <= version)
    handled = (ctypes.c_uint64 * 3)(
        rights, _TCP * (version >= _TCP_SINCE), _SCOPES * (version >= _SCOPES_SINCE)
    )
    known = 8 * (1 + (version >= _TCP_SINCE) + (version >= _SCOPES_SINCE))
    ruleset = _call(_LANDLOCK_CREATE, handled, known, 0)
    if ruleset < 0:
        return False
    try:
        return _call(_LANDLOCK_RESTRICT, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _call(number: int, *arguments: "int | ctypes.Array[ctypes.c_uint64] | None") -> int:
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    call = ctypes.CDLL(None).syscall
    call.restype = ctypes.c_long
    return int(call(ctypes.c_long(number), *wide))
