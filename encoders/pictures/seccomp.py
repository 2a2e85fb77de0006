"""The system calls that a decoder may make, as a filter that the kernel enforces.

It is a list of allowed calls, since a list of harmful ones can't be complete. Any other call fails
with EPERM. No library is needed: the filter is classic BPF, some two dozen bytes a rule
(seccomp(2)).
"""

import ctypes
import errno
import platform
import struct

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
#: Where a filter finds the call's number, its machine and its first and third argument.
_NUMBER, _ARCH, _FIRST, _THIRD = 0, 4, 16, 32
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_CLONE_THREAD = 0x00010000

#: For each machine: the number of its architecture (linux/audit.h), and the column below.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
#: What computing, memory, threads and one pipe need. The numbers are those of x86-64 and aarch64.
_ALLOWED = {
    "recvfrom": (45, 207),
    "sendto": (44, 206),
    "futex": (202, 98),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "brk": (12, 214),
    "madvise": (28, 233),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "restart_syscall": (219, 128),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
    "set_robust_list": (273, 99),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
_CLONE, _CLONE3, _PRLIMIT = (56, 220), (435, 435), (302, 261)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def filter_system_calls() -> bool:
    """Apply the list to this thread and those that it starts; False if that isn't possible.

    The process must have given up new privileges before.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    code = _filter(*machine)
    program = _Program(len(code) // 8, code)
    return prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(program)) == 0


def prctl(option: int, *arguments: int) -> int:
    """prctl(2); -1 where the kernel refuses."""
    wide = [ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4]]
    return int(ctypes.CDLL(None).prctl(option, *wide))


def _filter(architecture: int, column: int) -> bytes:
    refuse = _step(_RETURN, _ERRNO | errno.EPERM)
    allow = _step(_RETURN, _ALLOW)
    code = _step(_LOAD, _ARCH) + _step(_EQUAL, architecture, 1, 0) + _step(_RETURN, _KILL)
    code += _step(_LOAD, _NUMBER)
    for numbers in _ALLOWED.values():
        code += _when(numbers[column], allow)
    # Allow threads but no processes. The newer call hides its flags from filters: libc then tries
    # the old one.
    code += _when(_CLONE3[column], _step(_RETURN, _ERRNO | errno.ENOSYS))
    is_thread = _step(_LOAD, _FIRST) + _step(_ANY_BIT, _CLONE_THREAD, 0, 1)
    code += _when(_CLONE[column], is_thread + allow + refuse)
    # Limits may be read, which starting a thread does, but not set: no new limit may be passed
    asks = _step(_LOAD, _THIRD) + _step(_EQUAL, 0, 0, 3)
    asks += _step(_LOAD, _THIRD + 4) + _step(_EQUAL, 0, 0, 1)
    code += _when(_PRLIMIT[column], asks + allow + refuse)
    return code + refuse


def _when(number: int, then: bytes) -> bytes:
    return _step(_EQUAL, number, 0, len(then) // 8) + then


def _step(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, if_true, if_false, value)
