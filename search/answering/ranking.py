"""From the hits of a search to ordered results: fuse, cut, collapse, sort."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pixtide.schemas.queries import Score, SearchRequest
from pixtide.search.port import Hit, StoredImage, Vector, WordHit

#: Reciprocal rank fusion: Cormack, Clarke and Büttcher, SIGIR 2009, found that 60 works well.
_RRF = 60


@dataclass(frozen=True)
class Ranked:
    """A row at its rank among the results, with what each ranking says about it."""

    row: StoredImage
    similarity: float
    meaning_rank: int | None = None
    keyword_rank: int | None = None
    keyword_score: float | None = None
    fused: float | None = None
    duplicates: tuple[str, ...] = ()

    @property
    def score(self) -> Score:
        """The scores, as a reply contains them."""
        return Score(
            meaning_rank=self.meaning_rank,
            keyword_rank=self.keyword_rank,
            keyword_score=self.keyword_score,
            fused=self.fused,
        )


def rank(
    request: SearchRequest,
    direction: Vector,
    hits: Sequence[Hit],
    worded: Sequence[WordHit],
    cutoff: float | None,
) -> list[Ranked]:
    """The rows in the order of the request, cut and collapsed as it asks.

    Args:
        direction: the meaning of the query; float32 of unit length.
        hits: by meaning, best first. For a request that collapses, they have vectors.
        worded: by words, best first, with vectors.
        cutoff: the lowest similarity, if any; rows found by their words needn't reach the automatic
            one.
    """
    ranked = _fused(request, direction, hits, worded)
    excluded = {term.image_id for term in request.terms}
    kept = [one for one in ranked if one.row.image_id not in excluded]
    if cutoff is not None:
        words_do = request.min_similarity is None
        kept = [
            one
            for one in kept
            if one.similarity >= cutoff or (words_do and one.keyword_rank is not None)
        ]
    if request.collapse_above is not None:
        kept = _collapsed(kept, request.collapse_above)
    if request.sort == "newest":
        kept.sort(key=lambda one: -one.row.uploaded_at.timestamp() if one.row.uploaded_at else 0.0)
    return kept


def _fused(
    request: SearchRequest, direction: Vector, hits: Sequence[Hit], worded: Sequence[WordHit]
) -> list[Ranked]:
    """Both rankings combined; equal scores are ordered by id, so that pages are consistent."""
    nearest = sorted(hits, key=lambda hit: (-hit.similarity, hit.row.image_id))
    by_words = sorted(worded, key=lambda hit: (-hit.score, hit.row.image_id))
    found = {
        hit.row.image_id: Ranked(hit.row, hit.similarity, meaning_rank=place)
        for place, hit in enumerate(nearest, 1)
    }
    for place, each in enumerate(by_words, 1):
        one = found.get(each.row.image_id) or Ranked(each.row, _similarity(each.row, direction))
        found[each.row.image_id] = replace(one, keyword_rank=place, keyword_score=each.score)
    if request.mode != "hybrid":
        return list(found.values())
    fused = [_with_fused(one, request.keyword_weight) for one in found.values()]
    return sorted(fused, key=lambda one: (-(one.fused or 0), one.row.image_id))


def _with_fused(one: Ranked, keyword_weight: float) -> Ranked:
    total = 0.0
    if one.meaning_rank is not None:
        total += (1 - keyword_weight) / (_RRF + one.meaning_rank)
    if one.keyword_rank is not None:
        total += keyword_weight / (_RRF + one.keyword_rank)
    return replace(one, fused=total)


def _similarity(row: StoredImage, direction: Vector) -> float:
    return -1.0 if row.vector is None else float(np.clip(row.vector @ direction, -1, 1))


def _collapsed(ranked: Sequence[Ranked], above: float) -> list[Ranked]:
    """The best of each group of nearly equal pictures, with the ids of the others."""
    kept: list[Ranked] = []
    place_of: dict[str, int] = {}
    vectors = np.zeros((len(ranked), _dimension(ranked)), np.float32)
    for one in ranked:
        place = place_of.get(one.row.sha256)
        if place is None and one.row.vector is not None:
            near = np.flatnonzero(vectors[: len(kept)] @ one.row.vector >= above)
            place = int(near[0]) if len(near) else None
        if place is None:
            place = len(kept)
            kept.append(one)
            if one.row.vector is not None:
                vectors[place] = one.row.vector
        else:
            others = (*kept[place].duplicates, one.row.image_id)
            kept[place] = replace(kept[place], duplicates=others)
        if one.row.sha256:
            place_of.setdefault(one.row.sha256, place)
    return kept


def _dimension(ranked: Sequence[Ranked]) -> int:
    return next((len(one.row.vector) for one in ranked if one.row.vector is not None), 0)
