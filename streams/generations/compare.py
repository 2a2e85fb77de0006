"""Compares two generations: the same searches in both, to judge before promoting.

Each query is answered from each generation as the query consumer would answer it. Numbers show how
much the results differ, and how many of the true results each index has found. Only a person can
see which results are better, so there is a page with the pictures.
"""

import html
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from pixtide.encoders.port import Encoder
from pixtide.schemas.errors import RequestError, UsageError
from pixtide.schemas.queries import SearchRequest, SearchResult, checked
from pixtide.search.answering.answer import Snapshot, answer
from pixtide.search.exact import recalls
from pixtide.search.generations import Generation
from pixtide.search.port import GenerationCatalog

#: Returns a small JPEG of the original at a URI, or None if it isn't available.
Thumbnail = Callable[[str], bytes | None]

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 1400px }
h2 { font-size: 1.05rem; margin: 2rem 0 .3rem; border-top: 1px solid #8884; padding-top: 1rem }
.row { display: flex; gap: .5rem; overflow-x: auto; margin: .3rem 0 }
.row b { flex: 0 0 4rem }
figure { margin: 0; flex: 0 0 110px; font-size: 11px }
figure.only { outline: 2px solid #e80 }
img, .none { width: 110px; height: 110px; object-fit: cover; background: #8883 }
figcaption { overflow-wrap: anywhere }
p { margin: .2rem 0; opacity: .75 }
"""


@dataclass(frozen=True)
class Compared:
    """One query's results in both generations, and how long each took in milliseconds.

    `overlap` is the share of results, 0 to 1, that both have. `rank_change` is how many places
    these have moved on average, None if there are none. `recall` is, for each generation, the share
    of the truly nearest pictures that its index has found.
    """

    query: str
    first: tuple[SearchResult, ...]
    second: tuple[SearchResult, ...]
    took_ms: tuple[float, float]
    recall: tuple[float, float]

    @property
    def overlap(self) -> float:
        """The share of results that both have."""
        most = max(len(self.first), len(self.second))
        return len(_ids(self.first) & _ids(self.second)) / most if most else 1.0

    @property
    def rank_change(self) -> float | None:
        """How many places the results that both have moved on average."""
        ranks = [{r.image_id: n for n, r in enumerate(side)} for side in (self.first, self.second)]
        common = ranks[0].keys() & ranks[1].keys()
        return fmean(abs(ranks[0][i] - ranks[1][i]) for i in common) if common else None

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "query": self.query,
            "overlap": round(self.overlap, 4),
            "rank_change": None if self.rank_change is None else round(self.rank_change, 2),
            "took_ms": [round(ms, 2) for ms in self.took_ms],
            "recall": [round(share, 4) for share in self.recall],
            "first": [result.image_id for result in self.first],
            "second": [result.image_id for result in self.second],
        }


@dataclass(frozen=True)
class Comparison:
    """The comparison of all queries, `limit` results each."""

    names: tuple[str, str]
    limit: int
    compared: tuple[Compared, ...]

    def as_json(self) -> dict[str, Any]:
        """The totals, for machines."""
        changes = [c.rank_change for c in self.compared if c.rank_change is not None]
        return {
            "generations": list(self.names),
            "queries": len(self.compared),
            f"overlap@{self.limit}": round(fmean(c.overlap for c in self.compared), 4),
            "rank_change": round(fmean(changes), 2) if changes else None,
            "median_ms": [round(median(c.took_ms[n] for c in self.compared), 2) for n in (0, 1)],
            f"recall@{self.limit}": [
                round(fmean(c.recall[n] for c in self.compared), 4) for n in (0, 1)
            ],
        }


def compare(
    catalog: GenerationCatalog,
    generations: tuple[Generation, Generation],
    load: Callable[[Generation], Encoder],
    queries: Sequence[str],
    limit: int,
) -> Comparison:
    """Search for each query in both, and compare with all their vectors, which are read once.

    Raises:
        UsageError: there is no query, or one can't be served.
        FatalError: a model isn't what its generation was made with.
        TransientError: the index can't be reached.
    """
    if not queries:
        raise UsageError("there is no query in the file: write one a line")
    answered = [_answers(catalog, generation, load, queries, limit) for generation in generations]
    return Comparison(
        names=(generations[0].name, generations[1].name),
        limit=limit,
        compared=tuple(
            Compared(
                query,
                first.results,
                second.results,
                took_ms=(first.took_ms, second.took_ms),
                recall=(first.recall, second.recall),
            )
            for query, first, second in zip(queries, *answered, strict=True)
        ),
    )


@dataclass(frozen=True)
class _Answer:
    results: tuple[SearchResult, ...]
    took_ms: float
    recall: float


def _answers(
    catalog: GenerationCatalog,
    generation: Generation,
    load: Callable[[Generation], Encoder],
    queries: Sequence[str],
    limit: int,
) -> list[_Answer]:
    encoder = load(generation)
    encoder.warm_up()
    snapshot = Snapshot(generation, catalog.open(generation), encoder)
    requests = [_request(query, limit) for query in queries]
    found = []
    for request in requests:
        started = time.perf_counter()
        [reply] = answer([request], snapshot)
        took_ms = (time.perf_counter() - started) * 1000
        if reply.error is not None:
            raise UsageError(f"{request.text!r} in {generation.name}: {reply.error.message}")
        found.append((reply.results or (), took_ms))
    directions = np.concatenate([encoder.encode_texts([each.text or ""]) for each in requests])
    ids = [[result.image_id for result in results] for results, _ in found]
    shares = recalls(snapshot.index, directions, ids, limit)
    return [_Answer(*each, share) for each, share in zip(found, shares, strict=True)]


def _request(query: str, limit: int) -> SearchRequest:
    try:
        return checked(SearchRequest(text=query, limit=limit))
    except RequestError as error:
        raise UsageError(f"{query!r}: {error}") from error


def page(comparison: Comparison, thumbnail: Thumbnail) -> str:
    """A self-contained page: for each query both rows of pictures, inlined.

    Pictures that only one generation has get a frame.
    """
    sums = comparison.as_json()
    recall = sums[f"recall@{comparison.limit}"]
    first, second = map(html.escape, comparison.names)
    body = "".join(_section(each, comparison.names, thumbnail) for each in comparison.compared)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{first} and {second}</title>"
        f"<style>{_STYLE}</style><h1>{first} and {second}</h1>"
        f"<p>{sums['queries']} queries, overlap@{comparison.limit} "
        f"{sums[f'overlap@{comparison.limit}']:.2f}, results in both moved "
        f"{sums['rank_change'] or 0:.1f} places, median {sums['median_ms'][0]:.1f} and "
        f"{sums['median_ms'][1]:.1f} ms, of what an exact search finds {recall[0]:.1%} and "
        f"{recall[1]:.1%}; framed: only there</p>{body}</html>\n"
    )


def _section(compared: Compared, names: tuple[str, str], thumbnail: Thumbnail) -> str:
    first, second = compared.first, compared.second
    sides = ((names[0], first, second), (names[1], second, first))
    rows = "".join(
        f"<div class=row><b>{html.escape(name)}</b>"
        + "".join(
            _figure(result, in_both=result.image_id in _ids(other), thumbnail=thumbnail)
            for result in side
        )
        + "</div>"
        for name, side, other in sides
    )
    return (
        f"<h2>{html.escape(compared.query)}</h2><p>overlap {compared.overlap:.2f}, recall "
        f"{compared.recall[0]:.2f} and {compared.recall[1]:.2f}</p>{rows}"
    )


def _figure(result: SearchResult, *, in_both: bool, thumbnail: Thumbnail) -> str:
    name, data = html.escape(result.image_id, quote=True), thumbnail(result.uri)
    shown = (
        "<div class=none></div>"
        if data is None
        else f'<img alt="{name}" src="data:image/jpeg;base64,{b64encode(data).decode()}">'
    )
    kind = "" if in_both else " class=only"
    return f"<figure{kind}>{shown}<figcaption>{result.similarity:.3f} {name}</figcaption></figure>"


def _ids(results: Sequence[SearchResult]) -> set[str]:
    return {result.image_id for result in results}
