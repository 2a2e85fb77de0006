"""The index ports, in our words: rows, queries, hits, and the rule that the newest wins."""

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
    """One row: what the log's latest record says of an image id.

    `vector` is float32 of shape (dimension,) and unit length; it is present on a live row
    where the call says that it reads vectors. `width` and `height` are in pixels as shown.
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
        """The row as a metadata read gives it."""
        return replace(self, vector=None)


@dataclass(frozen=True)
class Written:
    """What became of one row handed to `write`.

    `applied` is false where a newer row stood in the way, or where `error` says why this row, as
    it is, can't be kept: it would be refused whenever it came.
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
    """One search for words in captions and tags; any of them will do."""

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
    """A live row, with its vector, and its BM25 score: greater is better, and no more is said."""

    row: StoredImage
    score: float


def may_replace(new: StoredImage, stored: StoredImage | None) -> bool:
    """Newest wins: whether `new` may be written over `stored`.

    An equal version may heal a dead-lettered row or be written again as it was.
    """
    if stored is None or new.version.newer_than(stored.version):
        return True
    if stored.version.newer_than(new.version):
        return False
    return stored.state is RowState.DEAD_LETTERED or stored == new


class VectorIndex(Protocol):
    """One collection.

    Every method raises TransientError while the index can't be reached, and CollectionGoneError
    where it has been dropped. No id, digest or row is an error for the others of its call: what
    no index can hold is found nowhere, and is refused alone.
    """

    def get(self, image_ids: Collection[str]) -> dict[str, StoredImage]:
        """The rows of these ids that exist, whatever their state, with vectors."""

    def with_content(self, digests: Collection[str]) -> dict[str, StoredImage]:
        """By sha256, a live row of that content, with its vector.

        Saves encoding what is known: one of many copies is named, and a content may be missed.
        """

    def write(self, rows: Sequence[StoredImage]) -> list[Written]:
        """Write rows of distinct ids where `may_replace` allows; one `Written` for each, in order.

        Confirmed on return. `previous` comes without its vector. A row that can't be kept has its
        `error`: a vector that is none, half a surrogate pair, a number past all bounds.

        Raises:
            ValueError: an id occurs twice.
        """

    def remove(self, rows: Mapping[str, Version]) -> None:
        """Remove the rows of these ids that still stand at these versions."""

    def search(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """The nearest live rows of each query that meet its filters, best first.

        Raises:
            ValueError: a query's vector or filter is wrong.
        """

    def search_words(self, queries: Sequence[WordQuery]) -> list[list[WordHit]]:
        """The live rows with any of the words that meet the filters, best first.

        Raises:
            ValueError: a filter, or the text, is wrong.
        """

    def scan(self, *, with_vectors: bool = False) -> Iterator[StoredImage]:
        """Every row, in any order."""

    def sample(self, most: int, random: np.random.Generator) -> NDArray[np.float32]:
        """Vectors of live rows, (n, dimension): all, or `most` of them, each as likely as another.

        Which ones, `random` says. It costs about the same whatever the collection's size.
        """

    def count(self) -> dict[RowState, int]:
        """How many rows there are of each state."""

    def tidy(self) -> None:
        """Do what a writer that was stopped has left undone; for one that begins."""

    def data_version(self) -> str | None:
        """Changes with every write by anybody; None where the index has no such thing."""


class GenerationCatalog(Protocol):
    """The generations of one index and the alias that says which is live."""

    def create(self, generation: Generation) -> None:
        """Create the empty collection and its record. Raises UsageError if the name is taken."""

    def get(self, name: str) -> Generation | None:
        """The record of that generation."""

    def list(self) -> list[Generation]:
        """All records, oldest first."""

    def change(self, name: str, change: Callable[[Generation], Generation]) -> Generation:
        """Replace the record of that name by what `change` makes of it, and return that.

        Nobody else changes a record, promotes or drops meanwhile, so that no change is lost;
        what `change` raises leaves all as it is. It must be quick, and may read the catalog.

        Raises:
            UsageError: there is no such generation.
        """

    def live(self) -> Generation | None:
        """The generation that the alias points to."""

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
        """What refuses writes until it is told otherwise, by names for people; for a look."""

    def make_writable(self) -> Sequence[str]:
        """Have all of `read_only` take writes again, and say which that was.

        For when there is room again: whoever has closed it may not look a second time.
        """

    def close(self) -> None:
        """Let connections go."""
