"""Caches the vectors of texts, since most searches have been made before."""

import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pixtide.search.answering.query_vectors import TextEncoder
from pixtide.search.port import Vector

#: Enough for 20,000 texts of a few words at 512 dimensions.
MOST_BYTES = 48 * 1024 * 1024
#: Bytes of an entry besides its text and its vector's numbers.
_EACH = 256


class CachedTexts:
    """A `TextEncoder` in front of another: each text is encoded once, whoever asks.

    Safe to share between threads. Calls at the same time wait for each other, so that the second
    one finds what the first one has encoded.
    """

    def __init__(self, encoder: TextEncoder, max_bytes: int = MOST_BYTES) -> None:
        self._encoder = encoder
        self._max_bytes = max_bytes
        self._bytes = 0
        self._vectors: OrderedDict[str, Vector] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many texts are cached."""
        return len(self._vectors)

    @property
    def fingerprint(self) -> str:
        """The encoder's fingerprint."""
        return self._encoder.fingerprint

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode n texts to (n, dimension); raises what the encoder raises."""
        with self._lock:
            known = {text: self._vectors[text] for text in texts if text in self._vectors}
            new = [text for text in dict.fromkeys(texts) if text not in known]
            if new:
                known |= zip(new, self._encoder.encode_texts(new), strict=True)
            for text, vector in known.items():
                if text in self._vectors:
                    self._vectors.move_to_end(text)
                elif np.isfinite(vector).all():
                    # a copy: a row of a batch would keep the whole batch in memory
                    self._vectors[text] = np.array(vector)
                    self._bytes += _size_of(text, vector)
            while self._bytes > self._max_bytes:
                self._bytes -= _size_of(*self._vectors.popitem(last=False))
        return np.stack([known[text] for text in texts])

    def check_text(self, text: str) -> None:
        """Raises RequestError QUERY_TOO_LONG for a text that the model would truncate."""
        if text not in self._vectors:
            self._encoder.check_text(text)


def _size_of(text: str, vector: Vector) -> int:
    return sys.getsizeof(text) + vector.nbytes + _EACH
