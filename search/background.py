"""The automatic cutoff: what similarity an unrelated picture would reach for a query.

Cosines of texts and pictures mean different things in each model and for each query, so no
fixed number can say "this is a match". But most pictures of a collection have nothing to do
with a query, and their similarities to it are spread about like a normal distribution: what
stands out of it is a match. Middle and spread are taken from the lower half of a sample, which
the matches, where there are many, don't reach.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pixtide.search.port import RowState, Vector, VectorIndex

#: Rows looked at, each as likely as any other: those that came first may all be of one kind.
#: The standard error of the middle is then a twentieth of the spread.
_SAMPLE = 512
#: Of fewer rows no distribution can be told.
_FEWEST = 16
_REFRESH_S = 60.0
#: One that is seen whole may soon be another.
_REFRESH_SMALL_S = 5.0
#: A picture as the query may resemble all others so much that the statistic asks for more.
_AS_GOOD_AS_EQUAL = 0.98
#: The lower quartile of a normal distribution is this many standard deviations below its middle.
_QUARTILE = 0.6745


@dataclass(frozen=True)
class _Sample:
    vectors: NDArray[np.float32]
    live: int
    taken_at: float

    @property
    def lasts_s(self) -> float:
        """Seconds that it is good for."""
        return _REFRESH_S if self.live > _SAMPLE else _REFRESH_SMALL_S


class Background:
    """A sample of a collection, taken when first needed and anew each minute.

    Args:
        random: says which rows are looked at.
    """

    def __init__(
        self,
        index: VectorIndex,
        clock: Callable[[], float] = time.monotonic,
        random: np.random.Generator | None = None,
    ) -> None:
        self._index = index
        self._clock = clock
        self._random = random or np.random.default_rng()
        self._sample: _Sample | None = None

    def cutoff(self, direction: Vector) -> float:
        """The similarity that about one unrelated picture of the whole collection would reach.

        −1, so that nothing is cut, where the collection is too small to tell.

        Raises:
            TransientError: the index can't be reached.
        """
        sample = self._fresh()
        if len(sample.vectors) < _FEWEST:
            return -1.0
        lower, middle = np.quantile(sample.vectors @ direction, [0.25, 0.5])
        spread = (middle - lower) / _QUARTILE
        reach = NormalDist().inv_cdf(1 - 1 / max(sample.live, _FEWEST))
        return min(float(middle + reach * spread), _AS_GOOD_AS_EQUAL)

    def _fresh(self) -> _Sample:
        sample, now = self._sample, self._clock()
        if sample is None or now - sample.taken_at > sample.lasts_s:
            vectors = self._index.sample(_SAMPLE, self._random)
            live = self._index.count()[RowState.LIVE]
            sample = self._sample = _Sample(vectors, live, now)
        return sample
