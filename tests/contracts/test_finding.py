"""A healthy index finds each of its rows by its own vector and words, however odd they are."""

import contextlib
from datetime import UTC, datetime

import numpy as np

from pixtide.schemas.identity import Version
from pixtide.search.port import VectorIndex
from pixtide.search.weaviate.index import WeaviateIndex
from pixtide.streams.generations.comparison_store import ComparisonStore, Difference, Kind
from pixtide.streams.generations.search_check import SearchCheck
from tests.contracts.samples import DIMENSION, deleted, full_row, live, poisoned, towards

CAPTIONS = (
    "",
    "?! …",
    "the",
    "Über den Dächern",
    "猫が好き",
    "नमस्ते दुनिया",
    "a" * 300,
    "snake_case and-dashes 1.5",
    "number 7",
    "🐈",
)


def test_all_rows_are_found_however_alike_or_odd(index: VectorIndex) -> None:
    vectors = np.random.default_rng(3).normal(size=(len(CAPTIONS), DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    odd = [
        live(f"odd{n}", n, vector, caption=caption, tags=("one", caption) if caption else ())
        for n, (caption, vector) in enumerate(zip(CAPTIONS, vectors, strict=True))
    ]
    last = live(
        "last", 50, towards(0, 1), caption="end", uploaded_at=datetime.max.replace(tzinfo=UTC)
    )
    # Weaviate's graph may lose sight of others beside hundreds of equal ones, which would be told
    equal = 30 if isinstance(index, WeaviateIndex) else 230
    copies = [live(f"copy{n}", n, towards(1), caption="the same") for n in range(equal)]
    index.write([*odd, last, full_row(), *copies, deleted("gone", 1), poisoned("bad", 2)])
    with contextlib.closing(ComparisonStore()) as ledger:
        ledger.note_rows(index.scan())
        finding = SearchCheck(index, None)
        told: list[int] = []
        finding.search(ledger, lambda _, done, __: told.append(done))
        assert list(ledger.unfound_rows()) == []
        assert finding.searched == len(odd) + len(copies) + 2 == told[-1]
        some = SearchCheck(index, 7)
        some.search(ledger, lambda *_: None)
        assert some.searched == 7


def test_rows_that_are_not_found_are_told_and_written_anew(index: VectorIndex) -> None:
    """The ledger has them from before they were written; Weaviate's own test damages its files."""
    rows = [live(f"i{n}", 1, towards(1, n), caption=f"word{n}") for n in range(30)]
    index.write(rows)
    at = Version(1, 0, 1)
    with contextlib.closing(ComparisonStore()) as ledger:
        ledger.note_rows(rows)
        ledger.note_unfound(
            Difference(row.image_id, kind, at, at)
            for row in rows
            for kind in (Kind.NOT_FOUND_BY_VECTOR, Kind.NOT_FOUND_BY_WORDS)
        )
        SearchCheck(index, None).rewrite(ledger)
        assert ledger.count_unfound() == {}
    found = index.get([row.image_id for row in rows])
    assert found == {row.image_id: row for row in rows}
