"""Remembers the vectors of texts, for most searches have been made before."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.directions import TextEncoder
from search.port import Vector

#: At 512 dimensions 32 MiB.
_SIZE = 16_384


class CachedTexts:
    """A `TextEncoder` in front of another: each text is encoded once, whoever asks at once.

    Safe to share between threads. Those of one moment wait for each other, so that the second
    finds what the first has had encoded.
    """

    def __init__(self, encoder: TextEncoder, size: int = _SIZE) -> None:
        self._encoder = encoder
        self._size = size
        self._vectors: OrderedDict[str, Vector] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many texts are remembered."""
        return len(self._vectors)

    @property
    def fingerprint(self) -> str:
        """That of the encoder."""
        return self._encoder.fingerprint

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode n texts to (n, dimension), raising what the encoder raises."""
        with self._lock:
            known = {text: self._vectors[text] for text in texts if text in self._vectors}
            new = [text for text in dict.fromkeys(texts) if text not in known]
            if new:
                known |= zip(new, self._encoder.encode_texts(new), strict=True)
            for text, vector in known.items():
                if np.isfinite(vector).all():
                    self._vectors[text] = vector
                    self._vectors.move_to_end(text)
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)
        return np.stack([known[text] for text in texts])

    def check_text(self, text: str) -> None:
        """Raises RequestError QUERY_TOO_LONG for a text that the model would truncate."""
        if text not in self._vectors:
            self._encoder.check_text(text)
