"""Where a model runs, and what both encoders share there: batches, verdicts, unit rows."""

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

#: `int8` is of pictures alone; what isn't in 8-bit numbers then is in fp32.
Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]

_DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
}
#: How Linux names processors that multiply bf16 themselves: x86's two ways, and ARM's.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
#: Batches that a GPU has besides the one whose vectors are waited for.
_AHEAD = 1
#: What libraries below torch say where torch has no class for it: cuBLAS, cuDNN, the CPU allocator.
_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory")


@dataclass
class Device:
    """A device, the precision of the model on it, and the most rows that run at once.

    `batch_size` shrinks to what has fitted, where the device ran out of memory, and stays so: a
    batch that is too large fails slowly, and takes from whatever else is on the device.
    """

    torch_device: torch.device
    precision: Precision
    batch_size: int

    @classmethod
    def pick(cls, device: str, precision: Precision, batch_size: int) -> Self:
        """Resolve `auto`, `cuda` or `cpu`, and the precision `auto`: bf16 where it is native.

        Raises:
            UsageError: for what this machine hasn't got, or can't compute with.
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
        """What the model's weights and its input are kept in."""
        return _DTYPES[self.precision]

    def upload(self, rows: NDArray[np.uint8] | NDArray[np.int64]) -> torch.Tensor:
        """Copy rows to the device; from pinned memory, so that the copy can overlap."""
        tensor = torch.from_numpy(np.require(rows, requirements=["C", "W"]))
        if self.torch_device.type == "cuda":
            return tensor.pin_memory().to(self.torch_device, non_blocking=True)
        return tensor

    def encode(
        self, count: int, dimension: int, forward: Callable[[slice], torch.Tensor]
    ) -> Vectors:
        """Run `forward` over rows 0..count in batches; a batch too large for memory is halved,
        and no later one is larger. A GPU has the next batch before the last one's vectors are
        waited for, so that copying to and from it takes no time of its own.

        Args:
            forward: gives features of shape (rows, dimension), any float type, for a slice.

        Returns:
            float32 of shape (count, dimension) as `unit_rows` makes it.

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
                # other threads may have found out the same, and more
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
        """Upload and normalise: in float32, then in the model's precision."""
        planes = self._device.upload(pixels).permute(0, 3, 1, 2).float()
        return planes.div_(255).sub_(self._mean).div_(self._std).to(self._device.dtype)


def _has_bf16() -> bool:
    """Whether the processor multiplies bf16; where it doesn't, bf16 is slower than fp32."""
    try:
        return not _BF16_FLAGS.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # no Linux
        return False


def check_pixels(pixels: Pixels, size: int) -> None:
    """Raises ValueError for what isn't uint8 of shape (n, size, size, 3)."""
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
        raise ValueError(
            f"pixels are {pixels.dtype} {pixels.shape}; expected are uint8 (n, {size}, {size}, 3)"
        )


def unit_rows(features: torch.Tensor) -> torch.Tensor:
    """float32 rows of unit length; a row that is not finite or has no length becomes NaN."""
    rows = features.float()
    lengths = rows.norm(dim=1, keepdim=True)
    usable = torch.isfinite(lengths) & (lengths > 0)
    return torch.where(usable, rows / lengths, torch.nan)


@contextmanager
def _verdicts() -> Iterator[None]:
    """Give what torch raises in a forward pass its verdict. The input is never to blame."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TransientError(f"the device is out of memory: {error}") from error
    except RuntimeError as error:
        if any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise TransientError(f"the device is out of memory: {error}") from error
        # a CUDA context is lost for good after an error; only a new process gets another
        raise FatalError(f"the model failed on its device: {error}") from error
