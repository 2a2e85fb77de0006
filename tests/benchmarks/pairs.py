"""Contenders side by side: in turns, forwards and backwards, and compared turn by turn.

What a machine is slowed by for minutes slows all of a turn alike, and what wears on within a turn
strikes first the one and then the other end of the order (ABBA). So ratios are taken within turns,
and of those the median; its interval is bootstrapped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.machine import matrix_product_gflops

#: At least 7; an even number gives each order as many turns.
PAIRS = 8
_RESAMPLED = 10_000


@dataclass(frozen=True)
class Turns:
    """What each contender measured, turn by turn; more is better.

    `sentinels` are GFLOP/s of a matrix product before and after each turn.
    """

    figures: dict[str, list[float]]
    sentinels: list[float]

    def median(self, name: str) -> float:
        """The middle of a contender's figures."""
        return float(np.median(self.figures[name]))

    def ratio(self, name: str, other: str) -> "Ratio":
        """How many times as much the first has measured as the other."""
        return ratio(self.figures[name], self.figures[other])


@dataclass(frozen=True)
class Ratio:
    """The median of the pairs' ratios, and its 95 % interval."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.2f} × ({self.low:.2f} to {self.high:.2f})"


def take_turns(measures: Mapping[str, Callable[[], float]], pairs: int = PAIRS) -> Turns:
    """Let each measure once a turn: in their order, then backwards, and so on."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    sentinels = [matrix_product_gflops()]
    for turn in range(pairs):
        for name in list(measures)[:: -1 if turn % 2 else 1]:
            figures[name].append(measures[name]())
        sentinels.append(matrix_product_gflops())
    return Turns(figures, sentinels)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Compare what was measured in the same turns."""
    each = np.asarray(ours) / np.asarray(theirs)
    random = np.random.default_rng(0)
    medians = np.median(random.choice(each, (_RESAMPLED, len(each))), axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return Ratio(float(np.median(each)), float(low), float(high), len(each))
