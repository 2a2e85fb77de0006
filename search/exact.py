"""Exact search, to measure an index: compares every live vector with every query.

An index of many vectors finds nearly all of the true nearest, and compression loses some more. Only
a comparison with all vectors shows how many.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pixtide.search.port import VectorIndex

#: Rows compared at once. Bounds the memory: 16 MB for vectors of 1,024 numbers.
_CHUNK = 4096
#: Similarities that differ by less count as equal: a few roundings of a float32.
_TIE = 2e-6


def recalls(
    index: VectorIndex,
    directions: NDArray[np.float32],
    found: Sequence[Sequence[str]],
    limit: int,
) -> list[float]:
    """For each of n directions, the share of its true nearest rows that a search found.

    `directions` is (n, dimension) of unit length. `found` has the ids that a search gave for each.
    The share is of the `limit` nearest rows, or of all rows if there are fewer. A row that is as
    near as the last of them counts as one of them. Reads the whole collection; rows written
    meanwhile may count against a search.

    Raises:
        TransientError: the index can't be reached.
        CollectionGoneError: the collection is gone.
    """
    wanted: dict[str, list[int]] = defaultdict(list)
    for query, ids in enumerate(found):
        for image_id in ids:
            wanted[image_id].append(query)
    nearest = np.full((len(directions), 0), -np.inf, np.float32)
    reached: list[list[float]] = [[] for _ in found]
    for ids, vectors in _chunks(index):
        similarities = directions @ vectors.T
        nearest = np.sort(np.concatenate([nearest, similarities], axis=1), axis=1)[:, -limit:]
        for place, image_id in enumerate(ids):
            for query in wanted.get(image_id, ()):
                reached[query].append(float(similarities[query, place]))
    there = nearest.shape[1]
    if there == 0:
        return [1.0 for _ in found]
    return [
        sum(score >= least - _TIE for score in scores) / there
        for scores, least in zip(reached, nearest[:, 0], strict=True)
    ]


def _chunks(index: VectorIndex) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """The ids and the vectors of the live rows, in chunks."""
    rows = index.scan(with_vectors=True)
    live = ((row.image_id, row.vector) for row in rows if row.vector is not None)
    while some := list(islice(live, _CHUNK)):
        yield [image_id for image_id, _ in some], np.stack([vector for _, vector in some])
