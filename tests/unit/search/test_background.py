"""The automatic cutoff at its edge: what is as good as equal is a match, always."""

import numpy as np

from pixtide.search.background import Background
from pixtide.search.port import RowState, Vector


class Alike:
    """An index whose pictures all resemble one direction, some more and some less."""

    def __init__(self, direction: Vector, count: int) -> None:
        self._direction = direction
        self.grow(count)

    def grow(self, count: int) -> None:
        direction = self._direction
        spread = np.random.default_rng(0).normal(scale=0.5, size=(count, len(direction)))
        self._rows = (direction + spread / len(direction) ** 0.5).astype(np.float32)

    def sample(self, most: int, random: np.random.Generator) -> Vector:
        rows = self._rows[random.permutation(len(self._rows))[:most]]
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    def count(self) -> dict[RowState, int]:
        return {RowState.LIVE: 10**9}


def test_the_same_picture_passes_where_all_are_alike() -> None:
    direction = np.zeros(8, np.float32)
    direction[0] = 1
    cutoff = Background(Alike(direction, 200)).cutoff(direction)  # type: ignore[arg-type]
    assert 0.9 < cutoff < 1


def test_a_collection_that_is_seen_whole_is_looked_at_again_soon() -> None:
    now = [0.0]
    direction = np.zeros(8, np.float32)
    direction[0] = 1
    index = Alike(direction, 10)
    index.count = lambda: {RowState.LIVE: 10}  # type: ignore[method-assign]
    background = Background(index, clock=lambda: now[0])  # type: ignore[arg-type]
    assert background.cutoff(direction) == -1, "too small to tell"
    index.grow(200)
    assert background.cutoff(direction) == -1
    now[0] = 6
    assert background.cutoff(direction) > 0.5
