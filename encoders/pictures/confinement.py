"""What a process gives up for good before it reads untrusted bytes. Linux only.

It has several fences, since not every kernel has each of them: resource limits, no privileges, no
files and no network by Landlock (5.13 and newer), and a short list of system calls by seccomp.
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
#: File rights, by the Landlock version that introduced them.
_FILE_RIGHTS = {1: 0x1FFF, 2: 0x2000, 3: 0x4000, 5: 0x8000}
_TCP_SINCE, _TCP = 4, 0x3
_SCOPES_SINCE, _SCOPES = 6, 0x3  # abstract sockets, and signals to other processes


class Fence(IntFlag):
    """What confines a process, besides its limits, which every kernel has."""

    SECCOMP = 1
    LANDLOCK = 2


def end_with_parent() -> None:
    """Make the kernel end this process when the thread that started it ends."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def confine(memory: int) -> Fence:
    """Give up everything except computing within `memory` further bytes and using open pipes.

    Returns:
        The fences that this kernel has.
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
    """When the machine runs out of memory, make the kernel end this process first."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return


def _limit(memory: int) -> None:
    for which, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),  # open files stay open, and nothing else can be opened
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
    """Handle every Landlock right and grant none; False if the kernel has no Landlock."""
    if platform.machine() not in ("x86_64", "aarch64"):
        return False  # the numbers of these calls are known only there
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
