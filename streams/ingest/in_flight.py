"""The records in flight: keeps each key in order, and knows how far a partition may be committed.

The log and the retry topic are read side by side. Partition n of both belongs to the same worker,
which gets and releases them together. So the order of a key holds across both topics.

No Kafka and no clock in here, so that tests can check it exhaustively.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

#: A topic's name and a partition's number.
Place = tuple[str, int]


class InPartition(Protocol):
    """What the tracker needs to know about a record."""

    @property
    def topic(self) -> str:
        """The topic it was read from."""

    @property
    def partition(self) -> int:
        """The partition it was read from."""

    @property
    def offset(self) -> int:
        """Its offset there."""

    @property
    def key(self) -> bytes | None:
        """Its key."""

    @property
    def size(self) -> int:
        """Its size in memory, in bytes."""


R = TypeVar("R", bound=InPartition)


class InFlight(Generic[R]):
    """Records read from the log or the retry topic and not finished yet.

    Records of one key start one after the other; different keys run in parallel. `newest` says
    which of a key's waiting records is worth starting. The offset to commit for a partition is its
    lowest unfinished one. If there is none, it is the position where reading has come to. That may
    lie behind offsets without a record: the end of a transaction, or what compaction has removed.
    """

    def __init__(self, supersedes: Callable[[R], bool] = lambda _: False) -> None:
        """Start empty.

        Args:
            supersedes: true for records that can supersede each other: of two such records of a
                key, one after the other, the later one supersedes the earlier one when it is
                written.
        """
        self._supersedes = supersedes
        self._unfinished: dict[Place, dict[int, R]] = {}
        self._next: dict[Place, int] = {}
        self._committed: dict[Place, int] = {}
        self._lanes: dict[tuple[int, bytes], deque[R]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._unfinished.values()))

    def __iter__(self) -> Iterator[R]:
        for records in self._unfinished.values():
            yield from records.values()

    def admit(self, record: R) -> bool:
        """Add a record. True if it may start now; else it waits for its key."""
        place = (record.topic, record.partition)
        self._unfinished.setdefault(place, {})[record.offset] = record
        self._next[place] = record.offset + 1
        self.bytes += record.size
        if record.key is None:
            return True
        lane = self._lanes.setdefault((record.partition, record.key), deque())
        lane.append(record)
        return len(lane) == 1

    def newest(self, first: R) -> list[R]:
        """The records of a key from `first` up to the one worth starting, which comes last.

        The others need no work of their own unless that one ends without a row. Then they still
        wait, and `finish` returns the first of them.
        """
        if first.key is None or not self._supersedes(first):
            return [first]
        return list(takewhile(self._supersedes, self._lanes[first.partition, first.key]))

    def reached(self, place: Place, offset: int) -> None:
        """Note how far reading has come, with or without a record there."""
        self._next[place] = max(offset, self._next.get(place, offset))

    def positions(self, topic: str) -> dict[int, int]:
        """For each partition of that topic, how far reading has come."""
        return {place[1]: offset for place, offset in self._next.items() if place[0] == topic}

    def holds(self, record: R) -> bool:
        """Whether exactly this record is in flight: unfinished, and its partition still ours.

        A record read in an earlier assignment is a different one, even at the same offset.
        """
        place = (record.topic, record.partition)
        return self._unfinished.get(place, {}).get(record.offset) is record

    def finish(self, record: R) -> R | None:
        """Mark it finished; the next record of its key may start. Ignores forgotten records."""
        if not self.holds(record):
            return None
        del self._unfinished[record.topic, record.partition][record.offset]
        self.bytes -= record.size
        if record.key is None:
            return None
        name = (record.partition, record.key)
        lane = self._lanes[name]
        lane.remove(record)
        if not lane:
            del self._lanes[name]
            return None
        return lane[0]

    def committable(
        self, partitions: Collection[int] | None = None, *, again: bool = False
    ) -> dict[Place, int]:
        """The offsets to commit, by place: those that moved since the last call of `committed`.

        Args:
            partitions: only partitions with these numbers, in both topics.
            again: also those that haven't moved.
        """
        moved = {}
        for place, following in self._next.items():
            if partitions is not None and place[1] not in partitions:
                continue
            offset = min(self._unfinished.get(place, ()), default=following)
            if again or offset > self._committed.get(place, -1):
                moved[place] = offset
        return moved

    def committed(self, offsets: dict[Place, int]) -> None:
        """Note the offsets that the broker has confirmed. Ignores forgotten partitions."""
        for place, offset in offsets.items():
            if place in self._next:
                self._committed[place] = max(offset, self._committed.get(place, -1))

    def forget(self, partitions: Collection[int]) -> None:
        """Forget the partitions with these numbers, in both topics: they are no longer ours."""
        for place in [place for place in self._next if place[1] in partitions]:
            for record in self._unfinished.pop(place, {}).values():
                self.bytes -= record.size
            self._next.pop(place)
            self._committed.pop(place, None)
        for name in [name for name in self._lanes if name[0] in partitions]:
            del self._lanes[name]
