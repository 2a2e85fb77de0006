"""What all sources of pictures share: bytes are counted as they come, and a pin is kept."""

from pixtide.schemas.errors import PoisonError, ReasonCode
from pixtide.schemas.events import PictureAt


class Fetched:
    """Bytes that come in, of which there may not be too many."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._chunks = bytearray()
        self._counted = 0

    def expect(self, size: int) -> None:
        """Hear how many bytes are announced. Raises PoisonError TOO_LARGE."""
        if size > self._max_bytes:
            raise PoisonError(
                ReasonCode.TOO_LARGE, f"the picture has more than {self._max_bytes} bytes"
            )

    def count(self, size: int) -> None:
        """Count what has come without keeping it. Raises PoisonError TOO_LARGE."""
        self._counted += size
        self.expect(self._counted)

    def add(self, chunk: bytes) -> None:
        """Take what has come. Raises PoisonError TOO_LARGE."""
        self._chunks += chunk
        self.expect(len(self._chunks))

    def whole(self) -> bytes:
        """All of it."""
        return bytes(self._chunks)


def require_pinned(picture: PictureAt, etag: str | None) -> None:
    """Raises PoisonError SOURCE_CHANGED where the event names another ETag than the source.

    Compared weakly (RFC 9110, 8.8.3.2), here and not by the server: many ignore `If-Match`.
    """
    if picture.etag is not None and _opaque(picture.etag) != _opaque(etag or ""):
        now = f"ETag {etag}" if etag else "no ETag"
        raise PoisonError(
            ReasonCode.SOURCE_CHANGED,
            f"{picture.uri} has {now} by now; the event says {picture.etag}",
        )


def _opaque(etag: str) -> str:
    return etag.strip().removeprefix("W/").strip('"')
