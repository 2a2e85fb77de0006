"""The encoder port: what the two event paths need of a model, and no more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

#: The end of the fingerprint if pictures are encoded in 8-bit numbers. Change it whenever that
#: encoding changes.
EIGHT_BIT = "-int8v1"


def is_eight_bit(fingerprint: str) -> bool:
    """Whether a fingerprint stands for vectors of pictures encoded in 8-bit numbers."""
    return fingerprint.endswith(EIGHT_BIT)


Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Crop:
    """How a picture becomes the model's square input, before normalisation.

    `shortest` resizes the shorter side to `resize` and crops the centre. `squash` resizes both
    sides and ignores the aspect ratio. `longest` fits the longer side and pads with `fill`.
    """

    size: int
    resize: int
    mode: Literal["shortest", "squash", "longest"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill: int = 0


class Encoder(Protocol):
    """One model: its encoders of pictures and of texts share a space of `dimension` axes.

    Vectors are float32 of unit length. A row is all NaN if the model gave a vector that is not
    finite or has length 0; the other rows of the batch are valid.
    """

    @property
    def fingerprint(self) -> str:
        """Identifies weights, tokenizer and preprocessing; mix vectors only if it is equal."""

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda"."""

    @property
    def dimension(self) -> int:
        """The length of every vector."""

    @property
    def crop(self) -> Crop:
        """How pictures are cropped for this model."""

    def warm_up(self) -> None:
        """Run both encoders once, so that the first real batch is not slow."""

    def encode_pictures(self, pixels: Pixels) -> Vectors:
        """Encode uint8 RGB pixels of shape (n, size, size, 3) to (n, dimension).

        Raises:
            TransientError: the device is busy or out of memory.
            FatalError: the device is lost.
        """

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encode texts, each within the model's context length, to (n, dimension)."""

    def check_text(self, text: str) -> None:
        """Raises RequestError QUERY_TOO_LONG for a text that the model would truncate."""
