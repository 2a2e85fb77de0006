"""The automatic cutoff: the similarity that an unrelated picture would reach for a query.

Cosines of texts and pictures mean different things in each model and for each query. So no fixed
number can say "this is a match". But most pictures of a collection have nothing to do with a query,
and their similarities to it follow roughly a normal distribution. What stands out from that
distribution is a match. Its middle and spread are computed from the lower half of a sample. Even
many matches don't reach that half.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pixtide.search.port import RowState, Vector, VectorIndex

#: Rows in the sample, chosen at random: the first rows of a collection may all be of one kind. With
#: this many, the standard error of the middle is a twentieth of the spread.
_SAMPLE = 512
#: With fewer rows there is no distribution to compute.
_FEWEST = 16
_REFRESH_S = 60.0
#: A collection that fits into the sample may change quickly.
_REFRESH_SMALL_S = 5.0
#: A picture that the query all but equals may resemble all others so much that the statistic would
#: demand more than this; so it never does.
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
        """For how many seconds it may be used."""
        return _REFRESH_S if self.live > _SAMPLE else _REFRESH_SMALL_S


class Background:
    """A sample of a collection, taken when first needed and renewed every minute.

    Args:
        random: chooses the rows.
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

        −1, which cuts nothing, if the collection is too small for the statistic.

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
