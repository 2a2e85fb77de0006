"""Search phrases of everyday length, made from lists of words; and how often each is asked."""

from itertools import product

import numpy as np

_HOW = """
    red blue green old new small large wooden broken shiny sleeping running wet snowy sunny dark
    bright empty crowded quiet
"""
_WHAT = """
    cat dog horse bird fish car bicycle boat train house bridge castle tree flower mountain lake
    beach street child chair table lamp guitar book bottle cup apple bread cake shoe hat clock
    camera phone kite ball tower field river forest
"""
_WHERE = (
    "", "in the rain", "at night", "on a table", "by the sea", "in the snow", "under a tree",
    "in a garden", "on the roof", "at the market",
)  # fmt: skip


def phrases(count: int, seed: int = 0) -> list[str]:
    """So many different phrases, up to 8,000, in an order that the seed gives."""
    every = [" ".join(filter(None, each)) for each in product(_HOW.split(), _WHAT.split(), _WHERE)]
    order = np.random.default_rng(seed).permutation(len(every))
    return [every[place] for place in order[:count]]


def zipf(distinct: int, count: int, seed: int = 0) -> list[int]:
    """Which phrase is asked, so many times: the nth with a frequency of 1 / n."""
    weights = 1 / np.arange(1, distinct + 1)
    chosen = np.random.default_rng(seed).choice(distinct, size=count, p=weights / weights.sum())
    return [int(each) for each in chosen]
