"""What a benchmark ran on, and how fast the machine was at that moment."""

import os
import platform
import time
from pathlib import Path

import numpy as np

from pixtide.encoders.port import Encoder

_SIDE = 1024
_TIMES = 5


def describe() -> dict[str, str]:
    """Processor, cores, memory and software."""
    info = Path("/proc/cpuinfo").read_text()
    names = [line.split(":")[1].strip() for line in info.splitlines() if "model name" in line]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": str(os.cpu_count()),
        "GiB": f"{memory:.0f}",
        "Python": platform.python_version(),
    }


def matrix_product_gflops() -> float:
    """A sentinel: a run whose figure is far from the others' had a busy neighbour."""
    a = np.ones((_SIDE, _SIDE), np.float32)
    best = min(_timed(a) for _ in range(_TIMES))
    return round(2 * _SIDE**3 / best / 1e9, 1)


def encoding_pace(encoder: Encoder) -> float:
    """Pictures a second through the model, decoded and cut already."""
    pixels = np.zeros((128, encoder.crop.size, encoder.crop.size, 3), np.uint8)
    encoder.encode_pictures(pixels[:32])
    started = time.perf_counter()
    encoder.encode_pictures(pixels)
    return round(len(pixels) / (time.perf_counter() - started), 1)


def resident_mib(process: int | None = None) -> float:
    """The resident memory of that process, or of this one."""
    status = Path(f"/proc/{process or 'self'}/status").read_text()
    [kib] = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return round(int(kib) / 1024, 1)


def _timed(a: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> float:
    started = time.perf_counter()
    a @ a
    return time.perf_counter() - started
