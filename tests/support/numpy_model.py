"""pixtide with a model of a few lines of numpy, for tests that need processes and no real model:

    python tests/support/numpy_model.py COMMAND ARGUMENT…

Importing torch and open_clip takes each process that does so some seven seconds of processor.
"""

import hashlib
import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from pixtide.encoders.port import Crop, Pixels, Vectors
from pixtide.schemas.errors import QueryCode, RequestError

SIZE = 32
#: Pixels a side of what is left of a picture before it is projected.
_SEEN = 4
_MOST_WORDS = 32
_FILE = "numpy_model.json"

#: For `Deployment.program`: pixtide, with this model in the place of open_clip's.
PROGRAM = (sys.executable, "-P", __file__)


def numpy_clip(folder: Path, *, seed: int = 0, dimension: int = 64) -> str:
    """Write a model and return its `local-dir:` name, as `tests.support.models.tiny_clip` does.

    Pictures of different colours get clearly different vectors; words mean nothing to it, but
    equal texts are equal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FILE).write_text(json.dumps({"seed": seed, "dimension": dimension}))
    return f"local-dir:{folder}"


class NumpyEncoder:
    """An `Encoder`: a random projection of a picture's mean colours, a random vector for a text."""

    device = "cpu"
    crop = Crop(size=SIZE, resize=SIZE)

    def __init__(self, seed: int, dimension: int) -> None:
        self._seed = seed
        self.dimension = dimension
        self.fingerprint = f"numpy-{seed}-{dimension}"
        inputs = _SEEN * _SEEN * 3
        self._projection = np.random.default_rng(seed).normal(size=(inputs, dimension))

    @classmethod
    def load(cls, model: str, **_: Any) -> Self:
        """The model of `numpy_clip`, by its name; the rest is for real ones."""
        found = json.loads((Path(model.removeprefix("local-dir:")) / _FILE).read_text())
        return cls(found["seed"], found["dimension"])

    def warm_up(self) -> None:
        """There is nothing to warm up."""

    def encode_pictures(self, pixels: Pixels) -> Vectors:
        """Uint8 RGB of shape (n, size, size, 3) to float32 (n, dimension) of unit length."""
        cell = SIZE // _SEEN
        cells = pixels.reshape(len(pixels), _SEEN, cell, _SEEN, cell, 3).mean(axis=(2, 4))
        return _unit((cells.reshape(len(pixels), -1) / 255 - 0.5) @ self._projection)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts to float32 (n, dimension) of unit length."""
        return _unit(np.array([self._of(text) for text in texts]).reshape(-1, self.dimension))

    def check_text(self, text: str) -> None:
        """Raises RequestError QUERY_TOO_LONG for a text of too many words."""
        if len(text.split()) > _MOST_WORDS:
            raise RequestError(
                QueryCode.QUERY_TOO_LONG, f"the text has more than the model's {_MOST_WORDS} tokens"
            )

    def _of(self, text: str) -> np.ndarray:
        digest = hashlib.sha256(f"{self._seed} {text}".encode()).digest()
        return np.random.default_rng(list(digest)).normal(size=self.dimension)


def _unit(vectors: np.ndarray) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths, lengths, np.nan)).astype(np.float32)


def main() -> None:
    """Run a command. Whoever asks for open_clip's encoder gets this one."""
    instead: Any = types.ModuleType("pixtide.encoders.open_clip.encoder")
    instead.OpenClipEncoder = NumpyEncoder
    sys.modules[instead.__name__] = instead
    from pixtide.streams.cli.main import main as pixtide

    pixtide()


if __name__ == "__main__":
    main()
