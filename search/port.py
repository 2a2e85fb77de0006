"""The index ports: rows, queries, hits, and the rule that the newest version wins."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from pixtide.schemas.errors import ReasonCode, UsageError
from pixtide.schemas.identity import Version
from pixtide.schemas.queries import Filters
from pixtide.search.generations import Generation

Vector = NDArray[np.float32]


class CollectionGoneError(UsageError):
    """The collection was dropped: its generation is retired, or somebody removed it."""


class RowState(StrEnum):
    """Only `live` rows have a vector; the others keep the id's place in the log."""

    LIVE = "live"
    DELETED = "deleted"
    DEAD_LETTERED = "dead_lettered"


@dataclass(frozen=True)
class StoredImage:
    """One row: what the latest record of an image id says.

    `vector` is float32 of shape (dimension,) and unit length. It is set on live rows, if the method
    says that it reads vectors. `width` and `height` are in pixels, as displayed.
    """

    image_id: str
    state: RowState
    version: Version
    uri: str = ""
    sha256: str = ""
    width: int = 0
    height: int = 0
    format: str = ""
    orientation: str = ""
    bytes: int = 0
    caption: str = ""
    tags: tuple[str, ...] = ()
    attributes: dict[str, JsonValue] = field(default_factory=dict)
    uploaded_at: datetime | None = None
    reason: ReasonCode | None = None
    vector: Vector | None = field(default=None, compare=False, repr=False)

    def without_vector(self) -> "StoredImage":
        """The row as a read without vectors returns it."""
        return replace(self, vector=None)


@dataclass(frozen=True)
class Written:
    """The result for one row passed to `write`.

    `applied` is false if a newer row exists, or if `error` says why this row can never be stored.
    """

    applied: bool
    previous: StoredImage | None = None
    error: str | None = None


@dataclass(frozen=True)
class Query:
    """One vector search: float32 of shape (dimension,), unit length."""

    vector: Vector
    limit: int
    filters: Filters = field(default_factory=Filters)
    with_vectors: bool = False


@dataclass(frozen=True)
class WordQuery:
    """One search for words in captions and tags; a row matches if it has any of them."""

    words: str
    limit: int
    filters: Filters = field(default_factory=Filters)


@dataclass(frozen=True)
class Hit:
    """A live row and its cosine similarity to the query, −1 to 1."""

    row: StoredImage
    similarity: float


@dataclass(frozen=True)
class WordHit:
    """A live row with its vector and its BM25 score, of which only the order means anything."""

    row: StoredImage
    score: float


def may_replace(new: StoredImage, stored: StoredImage | None) -> bool:
    """Newest wins: whether `new` may overwrite `stored`.

    A row of the same version may replace a dead-lettered row, or be written again unchanged.
    """
    if stored is None or new.version.newer_than(stored.version):
        return True
    if stored.version.newer_than(new.version):
        return False
    return stored.state is RowState.DEAD_LETTERED or stored == new


class VectorIndex(Protocol):
    """One collection.

    Every method raises TransientError while the index can't be reached, and CollectionGoneError
    after the collection was dropped. A bad id, digest or row never fails the others of the same
    call: a value that no index can hold is simply not found when read, and refused alone when
    written.
    """

    def get(self, image_ids: Collection[str]) -> dict[str, StoredImage]:
        """The existing rows of these ids, whatever their state, with vectors."""

    def with_content(self, digests: Collection[str]) -> dict[str, StoredImage]:
        """For each sha256 that is found, one live row with that content, and its vector.

        It saves encoding the same content again. If there are several copies, it returns one; it
        may miss a content.
        """

    def write(self, rows: Sequence[StoredImage]) -> list[Written]:
        """Write rows of distinct ids where `may_replace` allows; one `Written` for each, in order.

        Rows are confirmed on return. `previous` has no vector. A row that can never be stored gets
        an `error`: for example an invalid vector, half a surrogate pair, or a number out of range.

        Raises:
            ValueError: an id occurs twice.
        """

    def remove(self, rows: Mapping[str, Version]) -> None:
        """Remove the rows of these ids that still have these versions."""

    def search(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """The nearest live rows of each query that meet its filters, best first.

        Raises:
            ValueError: a query's vector or filter is wrong.
        """

    def search_words(self, queries: Sequence[WordQuery]) -> list[list[WordHit]]:
        """The live rows with any of the words that meet the filters, best first.

        Raises:
            ValueError: a filter or the text is wrong.
        """

    def scan(self, *, with_vectors: bool = False) -> Iterator[StoredImage]:
        """Every row, in any order."""

    def sample(self, most: int, random: np.random.Generator) -> NDArray[np.float32]:
        """Vectors of live rows, (n, dimension): all, or `most` of them, chosen at random.

        `random` chooses; every row is equally likely. The cost hardly depends on the collection's
        size.
        """

    def count(self) -> dict[RowState, int]:
        """How many rows there are in each state."""

    def tidy(self) -> None:
        """Finish what an interrupted writer left undone; called when a writer starts."""

    def data_version(self) -> str | None:
        """A value that changes with every write by anybody; None if the index has no such value."""


class GenerationCatalog(Protocol):
    """The generations of one index, and the alias that says which one is live."""

    def create(self, generation: Generation) -> None:
        """Create the empty collection and its record. Raises UsageError if the name is taken."""

    def get(self, name: str) -> Generation | None:
        """The record of that generation."""

    def list(self) -> list[Generation]:
        """All records, oldest first."""

    def change(self, name: str, change: Callable[[Generation], Generation]) -> Generation:
        """Replace the record with that name by the result of `change`, and return the result.

        Meanwhile nobody else changes a record, promotes or drops, so that no change is lost. If
        `change` raises, nothing changes. It must be quick, and may read the catalog.

        Raises:
            UsageError: there is no such generation.
        """

    def live(self) -> Generation | None:
        """The generation that the alias points to, if any."""

    def promote(self, name: str) -> None:
        """Point the alias at that generation, atomically.

        Raises:
            UsageError: there is no such generation, or it is retired.
        """

    def open(self, generation: Generation) -> VectorIndex:
        """The collection of that generation. Raises CollectionGoneError if it is gone."""

    def drop(self, generation: Generation) -> None:
        """Drop the collection; the record stays. Safe to repeat.

        Raises:
            UsageError: that generation is live.
        """

    def read_only(self) -> Sequence[str]:
        """Names of the parts that refuse writes until somebody reopens them. Changes nothing."""

    def make_writable(self) -> Sequence[str]:
        """Make everything in `read_only` accept writes again, and return what that was.

        For use when there is space again, since the index itself may never reopen what it closed.
        """

    def close(self) -> None:
        """Close the connections."""
