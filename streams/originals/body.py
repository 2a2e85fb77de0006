"""What all picture sources share: a byte limit while downloading, and a check of the ETag."""

from pixtide.schemas.errors import PoisonError, ReasonCode
from pixtide.schemas.events import PictureAt


class Fetched:
    """Collects incoming bytes up to a limit."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._chunks = bytearray()
        self._counted = 0

    def expect(self, size: int) -> None:
        """Check the announced number of bytes. Raises PoisonError TOO_LARGE."""
        if size > self._max_bytes:
            raise PoisonError(
                ReasonCode.TOO_LARGE, f"the picture has more than {self._max_bytes} bytes"
            )

    def count(self, size: int) -> None:
        """Count incoming bytes without keeping them. Raises PoisonError TOO_LARGE."""
        self._counted += size
        self.expect(self._counted)

    def add(self, chunk: bytes) -> None:
        """Add incoming bytes. Raises PoisonError TOO_LARGE."""
        self._chunks += chunk
        self.expect(len(self._chunks))

    def whole(self) -> bytes:
        """All of the bytes."""
        return bytes(self._chunks)


def require_pinned(picture: PictureAt, etag: str | None) -> None:
    """Raises PoisonError SOURCE_CHANGED if the event names another ETag than the source.

    Uses weak comparison (RFC 9110, 8.8.3.2), and compares here: many servers ignore `If-Match`.
    """
    if picture.etag is not None and _opaque(picture.etag) != _opaque(etag or ""):
        now = f"ETag {etag}" if etag else "no ETag"
        raise PoisonError(
            ReasonCode.SOURCE_CHANGED,
            f"{picture.uri} has {now} by now; the event says {picture.etag}",
        )


def _opaque(etag: str) -> str:
    return etag.strip().removeprefix("W/").strip('"')
