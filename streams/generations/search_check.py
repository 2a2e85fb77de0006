"""Searches for rows by their own content: an index may hold a row and still not find it.

A crash that damages an index's files can leave the rows intact but remove them from what searches
use. So each row is searched for by its own vector. It is also searched for by the words of its
caption and tags, among the rows with its time and size. Each search must find it. If so many rows
are equal that it may be hidden behind them, nothing is reported.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import timedelta

from pixtide.schemas.queries import Filters
from pixtide.search.port import Query, RowState, StoredImage, VectorIndex, WordQuery
from pixtide.streams.generations.comparison_store import ComparisonStore, Difference, Kind
from pixtide.streams.generations.progress import Tell

#: How many results to ask for at first, and again if the row isn't among them.
_FEW, _MANY = 10, 200
_SAME = 1 - 1e-5
_WORDS = 10
#: LanceDB leaves out longer ones.
_LONGEST = 40
_NEXT = timedelta(microseconds=1)
#: The years whose times every index can compare.
_FROM, _TO = 1900, 9000


class SearchCheck:
    """Searches for some rows of a generation, or all, and notes those that aren't found.

    Args:
        most: how many rows, chosen at random; None: all.
    """

    def __init__(self, index: VectorIndex, most: int | None) -> None:
        self._index = index
        self._most = most
        self.searched = 0

    def search(self, ledger: ComparisonStore, tell: Tell) -> None:
        """Search for them. Raises TransientError."""
        total = min(self._most or ledger.rows(), ledger.rows())
        for ids in ledger.some_live(self._most):
            rows = self._live(ids)
            ledger.note_unfound(self._unfound(rows))
            self.searched += len(rows)
            tell("searching for rows", self.searched, max(total, self.searched))

    def rewrite(self, ledger: ComparisonStore) -> None:
        """Write the rows that weren't found as if they were new, and search for them again.

        An index ignores a row that is written again unchanged, so each row is removed first.

        Raises:
            TransientError: the index can't be reached. A row that is missing then is reported by
                the next verification.
        """
        for ids in ledger.unfound():
            rows = self._live(ids)
            self._index.remove({row.image_id: row.version for row in rows})
            self._index.write(rows)
            ledger.forget_unfound(ids)
            ledger.note_unfound(self._unfound(self._live(ids)))

    def _live(self, ids: Sequence[str]) -> list[StoredImage]:
        rows = self._index.get(ids).values()
        return [row for row in rows if row.state is RowState.LIVE and row.vector is not None]

    def _unfound(self, rows: Sequence[StoredImage]) -> Iterator[Difference]:
        """The rows that aren't found; a row that is replaced meanwhile doesn't count."""
        for kind, finds in (
            (Kind.NOT_FOUND_BY_VECTOR, self._by_vector),
            (Kind.NOT_FOUND_BY_WORDS, self._by_words),
        ):
            missed = finds(rows, _FEW)
            if missed:
                missed = finds(self._live([row.image_id for row in missed]), _MANY)
            for row in missed:
                yield Difference(row.image_id, kind, row.version, row.version)

    def _by_vector(self, rows: Sequence[StoredImage], limit: int) -> list[StoredImage]:
        asked = [(row, Query(row.vector, limit)) for row in rows if row.vector is not None]
        hits = self._index.search([query for _, query in asked])
        return [
            row
            for (row, _), found in zip(asked, hits, strict=True)
            if row.image_id not in {hit.row.image_id for hit in found}
            and not (limit == _MANY and sum(hit.similarity >= _SAME for hit in found) >= limit)
        ]

    def _by_words(self, rows: Sequence[StoredImage], limit: int) -> list[StoredImage]:
        asked = [
            (row, WordQuery(words, limit, _beside(row))) for row in rows if (words := _words(row))
        ]
        hits = self._index.search_words([query for _, query in asked])
        return [
            row
            for (row, _), found in zip(asked, hits, strict=True)
            if row.image_id not in {hit.row.image_id for hit in found}
            and not (limit == _MANY and len(found) >= limit)
        ]


def _words(row: StoredImage) -> str:
    """Some of its words that every index recognises as words."""
    words = re.findall(r"[^\W_]+", " ".join((row.caption, *row.tags)))
    return " ".join([word for word in words if len(word) <= _LONGEST][:_WORDS])


def _beside(row: StoredImage) -> Filters:
    """Filters for the rows with its time and size; at the ends of the calendar, with its size."""
    moment = row.uploaded_at
    within = moment is not None and _FROM <= moment.year < _TO
    return Filters(
        uploaded_after=moment if within else None,
        uploaded_before=moment + _NEXT if moment and within else None,
        min_width=max(1, row.width),
        max_width=max(1, row.width),
        min_height=max(1, row.height),
        max_height=max(1, row.height),
    )
