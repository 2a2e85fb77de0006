"""Where a model runs, and what all encoders share there: batches, error verdicts, unit vectors."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pixtide.encoders.port import Pixels, Vectors
from pixtide.schemas.errors import FatalError, TransientError, UsageError

logger = logging.getLogger(__name__)

#: `int8` applies to pictures only; the rest then runs in fp32.
Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]

_DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
}
#: Linux's names for CPU features that multiply bf16 natively: two of x86 and one of ARM.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
#: How many batches a GPU gets besides the one whose vectors are awaited.
_AHEAD = 1
#: Out-of-memory messages of libraries below torch (cuBLAS, cuDNN, the CPU allocator), for which
#: torch has no error class.
_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory")


@dataclass
class Device:
    """A device, the model's precision on it, and the most rows that run at once.

    When the device runs out of memory, `batch_size` shrinks to what fitted and stays so: a batch
    that is too large fails slowly, and takes memory from everything else on the device.
    """

    torch_device: torch.device
    precision: Precision
    batch_size: int

    @classmethod
    def pick(cls, device: str, precision: Precision, batch_size: int) -> Self:
        """Resolve `auto`, `cuda` or `cpu`, and the precision `auto`: bf16 where it is native.

        Raises:
            UsageError: this machine doesn't have it, or can't compute with it.
        """
        if device not in ("auto", "cuda", "cpu"):
            raise UsageError(f"device {device!r} is unknown; choose auto, cuda or cpu")
        if precision not in ("auto", *_DTYPES):
            raise UsageError(
                f"precision {precision!r} is unknown; choose auto, fp32, fp16, bf16 or int8"
            )
        if batch_size < 1:
            raise UsageError(f"a batch size of {batch_size} encodes nothing; choose 1 or more")
        has_cuda = torch.cuda.is_available()
        if device == "cuda" and not has_cuda:
            raise UsageError("torch finds no CUDA device here; choose device cpu or auto")
        name = "cuda" if has_cuda and device != "cpu" else "cpu"
        if name == "cpu" and precision == "fp16":
            raise UsageError("fp16 needs a CUDA device; on a CPU choose fp32 or bf16")
        if name == "cuda" and precision == "int8":
            raise UsageError("int8 is of CPUs; on a CUDA device choose bf16 or fp16")
        if precision == "auto":
            if name == "cuda":
                native = torch.cuda.is_bf16_supported(including_emulation=False)
                precision = "bf16" if native else "fp16"
            else:
                precision = "bf16" if _has_bf16() else "fp32"
        return cls(torch.device(name), precision, batch_size)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the model's weights and input."""
        return _DTYPES[self.precision]

    def upload(self, rows: NDArray[np.uint8] | NDArray[np.int64]) -> torch.Tensor:
        """Copy rows to the device; from pinned memory, so that computing can go on meanwhile."""
        tensor = torch.from_numpy(np.require(rows, requirements=["C", "W"]))
        if self.torch_device.type == "cuda":
            return tensor.pin_memory().to(self.torch_device, non_blocking=True)
        return tensor

    def encode(
        self, count: int, dimension: int, forward: Callable[[slice], torch.Tensor]
    ) -> Vectors:
        """Run `forward` over rows 0..count in batches.

        A batch that is too large for memory is halved, and later ones stay that small. A GPU gets
        the next batch before the last one's vectors are awaited, so that copying takes no extra
        time.

        Args:
            forward: gives features of shape (rows, dimension), any float type, for a slice.

        Returns:
            float32 of shape (count, dimension), as `unit_rows` makes it.

        Raises:
            TransientError: not even one row fits into memory now.
            FatalError: the device or the model fails.
        """
        vectors = np.empty((count, dimension), dtype=np.float32)
        under_way: deque[tuple[slice, torch.Tensor]] = deque()

        def collect(most_left: int) -> None:
            while len(under_way) > most_left:
                batch, rows = under_way.popleft()
                with _verdicts():
                    vectors[batch] = rows.cpu().numpy()

        start = 0
        while start < count:
            batch = slice(start, min(start + self.batch_size, count))
            try:
                with _verdicts(), torch.inference_mode():
                    under_way.append((batch, unit_rows(forward(batch))))
            except TransientError as error:
                if batch.stop - batch.start == 1:
                    raise
                # another thread may have shrunk it even more
                self.batch_size = min(self.batch_size, (batch.stop - batch.start) // 2)
                logger.warning("batches are of %d rows from now on: %s", self.batch_size, error)
                collect(0)
                if self.torch_device.type == "cuda":
                    torch.cuda.empty_cache()
            else:
                start = batch.stop
                collect(_AHEAD if self.torch_device.type == "cuda" else 0)
        collect(0)
        return vectors


class Normalisation:
    """Maps uint8 (n, size, size, 3) to (x / 255 − mean) / std of shape (n, 3, size, size)."""

    def __init__(self, device: Device, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._device = device
        self._mean = torch.tensor(mean, device=device.torch_device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device.torch_device).view(1, 3, 1, 1)

    def __call__(self, pixels: Pixels) -> torch.Tensor:
        """Upload and normalise: first in float32, then in the model's precision."""
        planes = self._device.upload(pixels).permute(0, 3, 1, 2).float()
        return planes.div_(255).sub_(self._mean).div_(self._std).to(self._device.dtype)


def _has_bf16() -> bool:
    """Whether the CPU multiplies bf16 natively; if not, bf16 is slower than fp32."""
    try:
        return not _BF16_FLAGS.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # not Linux
        return False


def check_pixels(pixels: Pixels, size: int) -> None:
    """Raises ValueError unless the pixels are uint8 of shape (n, size, size, 3)."""
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
        raise ValueError(
            f"pixels are {pixels.dtype} {pixels.shape}; expected are uint8 (n, {size}, {size}, 3)"
        )


def unit_rows(features: torch.Tensor) -> torch.Tensor:
    """float32 rows of unit length; a row that is not finite or has length 0 becomes NaN."""
    rows = features.float()
    lengths = rows.norm(dim=1, keepdim=True)
    usable = torch.isfinite(lengths) & (lengths > 0)
    return torch.where(usable, rows / lengths, torch.nan)


@contextmanager
def _verdicts() -> Iterator[None]:
    """Turn torch's errors in a forward pass into ours. The input is never to blame."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TransientError(f"the device is out of memory: {error}") from error
    except RuntimeError as error:
        if any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise TransientError(f"the device is out of memory: {error}") from error
        # a CUDA context can't be used after an error; only a new process gets another one
        raise FatalError(f"the model failed on its device: {error}") from error
