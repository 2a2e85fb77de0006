"""Thumbnails, made when first asked for."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from encoders.decoding import DecoderPool
from schemas.identity import original_folder
from search.port import StoredImage

#: Longest wait for a thumbnail that isn't kept, in seconds; whoever asks again may have it then.
_PATIENCE_S = 30.0


class Thumbnails:
    """Makes thumbnails of originals, and keeps the latest used ones in a folder of its own.

    The folder must be empty at first, and nobody else's. Safe to share between threads.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        original: Callable[[StoredImage], bytes],
        decoders: DecoderPool,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._original = original
        self._decoders = decoders
        self._sizes: OrderedDict[Path, int] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, row: StoredImage, side: int) -> bytes:
        """A JPEG of the picture as displayed, no side longer than `side` pixels.

        Raises:
            ApiError: the original can't be had.
            PoisonError: it can't be decoded.
            TransientError: its store is unwell, or the decoders are busy.
        """
        file = self._folder / original_folder(row.image_id) / f"{row.sha256}-{side}.jpg"
        with self._lock:
            kept = file in self._sizes
            if kept:
                self._sizes.move_to_end(file)
        if kept:
            try:
                return file.read_bytes()
            except FileNotFoundError:  # forgotten just now
                pass
        thumbnail = self._decoders.thumbnail(self._original(row), side, _PATIENCE_S)
        self._keep(file, thumbnail)
        return thumbnail

    def forget(self, image_id: str) -> None:
        """Remove what was made of this picture, so that a deleted one leaves nothing behind."""
        folder = self._folder / original_folder(image_id)
        with self._lock:
            for file in [file for file in self._sizes if file.parent == folder]:
                self._remove(file)

    def _keep(self, file: Path, thumbnail: bytes) -> None:
        partial = file.with_name(f"{file.name}.{threading.get_ident()}")
        with self._lock:
            file.parent.mkdir(exist_ok=True)
            partial.write_bytes(thumbnail)
            partial.replace(file)
            self._bytes += len(thumbnail) - self._sizes.pop(file, 0)
            self._sizes[file] = len(thumbnail)
            while self._bytes > self._max_bytes and len(self._sizes) > 1:
                self._remove(next(iter(self._sizes)))

    def _remove(self, file: Path) -> None:
        self._bytes -= self._sizes.pop(file)
        file.unlink(missing_ok=True)
