"""The automatic cutoff at its edge: what is as good as equal is a match, always."""

from collections.abc import Iterator

import numpy as np

from schemas.identity import Version
from search.background import Background
from search.port import RowState, StoredImage, Vector


class Alike:
    """An index whose pictures all resemble one direction, some more and some less."""

    def __init__(self, direction: Vector, count: int) -> None:
        spread = np.random.default_rng(0).normal(scale=0.5, size=(count, len(direction)))
        self._rows = (direction + spread / len(direction) ** 0.5).astype(np.float32)

    def scan(self, *, with_vectors: bool = False) -> Iterator[StoredImage]:
        assert with_vectors
        for number, row in enumerate(self._rows):
            vector = row / np.linalg.norm(row)
            yield StoredImage(
                str(number), RowState.LIVE, Version(1, 0, number), vector=vector.astype(np.float32)
            )

    def count(self) -> dict[RowState, int]:
        return {RowState.LIVE: 10**9}


def test_the_same_picture_passes_where_all_are_alike() -> None:
    direction = np.zeros(8, np.float32)
    direction[0] = 1
    cutoff = Background(Alike(direction, 200)).cutoff(direction)  # type: ignore[arg-type]
    assert 0.9 < cutoff < 1
