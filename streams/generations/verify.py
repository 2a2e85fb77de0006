"""Verification: does a generation's collection hold what the log says, and nothing else?

1. fold    read the log up to its current ends: what does the latest record of each id ask for
2. wait    until the generation's workers have committed that far
3. scan    read the collection, and the store of originals
4. look    again at everything that differs: at the end of the log, at the rows and at their
           originals, since a live system keeps changing
5. tell    what still differs

Both sides are in a database on disk (see streams/generations/comparison_store.py), so that memory
stays limited.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import chain, islice
from typing import Any, TypeVar

from pixtide.schemas import topics
from pixtide.search.generations import Generation
from pixtide.search.port import VectorIndex
from pixtide.streams.generations.comparison_store import (
    OF_THE_STORE,
    ComparisonStore,
    Difference,
    Expected,
    Kind,
)
from pixtide.streams.generations.expectation import expected_row
from pixtide.streams.generations.originals_check import StoreSide
from pixtide.streams.generations.progress import Tell, await_group
from pixtide.streams.generations.search_check import SearchCheck
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.errors import KafkaDeniedError
from pixtide.streams.kafka.log_guard import LogGuard
from pixtide.streams.kafka.records import Record
from pixtide.streams.kafka.topic_reader import records_between
from pixtide.streams.settings import Settings

T = TypeVar("T")

_LOOKS = 5
_EXAMPLES = 20
_TELL_EVERY = 500


@dataclass(frozen=True)
class Verification:
    """What was compared, and what differs. `dead_letters` counts rows by their reason's code.

    `searched` is how many rows were searched for. `notes` say what could not be checked.
    """

    generation: str
    records: int
    images: int
    rows: int
    differences: dict[Kind, int]
    examples: tuple[Difference, ...]
    dead_letters: dict[str, int]
    took_s: float
    searched: int = 0
    notes: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether the collection is what the log says, and the store what the rows say."""
        return not self.differences

    @property
    def rows_agree(self) -> bool:
        """Whether the collection is what the log says: enough to answer searches from it."""
        return self.differences.keys() <= OF_THE_STORE

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "clean": self.is_clean}


def _all(_: str) -> bool:
    return True


class Verifier:
    """One verification of one generation, and later checks of what it found.

    Args:
        timeout_s: give up waiting for the workers after this long without progress.
        store: the store of originals; None: originals are not checked.
        finding: searches for rows; None: rows are not searched for.
    """

    def __init__(
        self,
        settings: Settings,
        generation: Generation,
        index: VectorIndex,
        *,
        timeout_s: float,
        tell: Tell,
        store: StoreSide | None = None,
        finding: SearchCheck | None = None,
    ) -> None:
        self._settings = settings
        self._generation = generation
        self._index = index
        self._timeout_s = timeout_s
        self._tell = tell
        self._client = kafka_clients.admin(settings.kafka_connection())
        self._read_to: dict[int, int] = {}
        self._records = 0
        self._started = time.monotonic()
        self._store = store
        self._finding = finding
        self._note: str | None = None
        self.ledger = ComparisonStore(store.original_of) if store else ComparisonStore()

    def close(self) -> None:
        """Free the disk space."""
        self.ledger.close()

    def run(self) -> Verification:
        """Compare everything.

        Raises:
            FatalError: the log is not the one that the generation was created on.
            NotReadError: the workers make no progress.
            TransientError: a server is away.
        """
        log = self._generation.log
        LogGuard(self._client, log).check()
        if self._store:
            self._store.begin()
        self._read_to = kafka_offsets.beginnings(self._client, log.topic, range(log.partitions))
        self._fold_up_to(self._ends())
        self._await_workers()
        self._scan()
        if self._finding:
            self._finding.search(self.ledger, self._tell)
        return self.look_again()

    def look_again(self) -> Verification:
        """Compare what differed again, as often as the log grows meanwhile."""
        for look in range(_LOOKS):
            if not self.ledger.doubt_differences():
                break
            before = dict(self._read_to)
            # Only what is in doubt: the other rows were read before this part of the log.
            self._fold_up_to(self._ends(), wanted=self.ledger.is_doubted)
            self._await_workers()
            for ids in self.ledger.doubts():
                self.ledger.forget_rows(ids)
                self.ledger.note_rows(self._index.get(ids).values())
                if self._store:
                    self._store.look_again(self.ledger, ids)
            if look and before == self._read_to:
                break
        # If an id is written all the time, its row may always be newer than what we have read.
        self.ledger.follow(self._ends())
        if self._store:
            self._note = self._store.settle(self.ledger) or self._note
        return self._verification()

    def rewrite(self) -> None:
        """Write the rows that searches don't find again, and search for them again."""
        if self._finding:
            self._finding.rewrite(self.ledger)

    def sweep(self) -> Verification:
        """Remove the originals that nothing names. Call it only if the rows agree."""
        if self._store:
            self._store.sweep(self.ledger)
        return self._verification()

    def expire_values(self) -> None:
        """Remove the values of expired dead letters."""
        kept = self._letters_kept()
        if self._store and kept is not None:
            self._store.expire_values(kept)

    def _letters_kept(self) -> timedelta | None:
        """How long the topic keeps a dead letter; None: for ever."""
        embedded = self._settings.embedded_log
        [usual] = (t for t in topics.topics(embedded=embedded) if t.name == topics.DEAD_LETTERS)
        kept_ms = usual.retention_ms or -1
        if not embedded:
            name = self._settings.named(topics.DEAD_LETTERS)
            with contextlib.suppress(KafkaDeniedError):  # then assume the default
                kept_ms = int(kafka_topics.topic_config(self._client, name)["retention.ms"])
        return timedelta(milliseconds=kept_ms) if kept_ms >= 0 else None

    # 1. fold

    def _fold_up_to(self, ends: dict[int, int], wanted: Callable[[str], bool] = _all) -> None:
        total = sum(end - self._read_to.get(p, 0) for p, end in ends.items())
        topic = self._generation.log.topic
        records = records_between(self._settings.kafka_connection(), topic, self._read_to, ends)
        asked = self._asked(told(records, "reading the log", total, self._tell))
        self.ledger.note_log(each for each in asked if wanted(each.image_id))
        self._read_to = ends

    def _asked(self, records: Iterable[Record]) -> Iterator[Expected]:
        for record in records:
            self._records += 1
            asked = expected_row(record, self._generation.log, self._settings.partitioner)
            if asked is not None:
                yield asked

    def _ends(self) -> dict[int, int]:
        log = self._generation.log
        return kafka_offsets.ends(self._client, log.topic, range(log.partitions))

    # 2. wait

    def _await_workers(self) -> None:
        await_group(
            self._settings, self._generation, self._read_to, self._timeout_s, tell=self._tell
        )

    # 3. scan

    def _scan(self) -> None:
        total = sum(self._index.count().values())
        self.ledger.note_rows(told(self._index.scan(), "reading the index", total, self._tell))
        if self._store:
            what = "reading the image store"
            self._store.note_all(self.ledger, lambda files: told(files, what, total, self._tell))

    # 5. tell

    def _verification(self) -> Verification:
        differences, examples = self.ledger.counts(), self.ledger.differences()
        if left := self.ledger.count_left():
            differences[Kind.ORIGINAL_LEFT] = left
            lying = (
                Difference(key, Kind.ORIGINAL_LEFT, None, None) for key, _ in self.ledger.left()
            )
            examples = chain(examples, lying)
        differences |= self.ledger.count_unfound()
        examples = chain(examples, self.ledger.unfound_rows())
        return Verification(
            generation=self._generation.name,
            records=self._records,
            images=self.ledger.images(),
            rows=self.ledger.rows(),
            differences=differences,
            examples=tuple(islice(examples, _EXAMPLES)),
            dead_letters=self.ledger.dead_letters(),
            took_s=round(time.monotonic() - self._started, 2),
            searched=self._finding.searched if self._finding else 0,
            notes=(self._note,) if self._note else (),
        )


def told(items: Iterable[T], what: str, total: int, tell: Tell) -> Iterator[T]:
    """Pass items through, and report now and then how many have come."""
    done = 0
    for done, item in enumerate(items, 1):
        if done % _TELL_EVERY == 0:
            tell(what, done, max(total, done))
        yield item
    tell(what, done, done)
