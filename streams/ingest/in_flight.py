"""What is in flight: each key in order, and how far each partition may be committed.

The log and the retry topic are read side by side: partition n of both belongs to one worker, and
is taken and let go together, so that the order of a key holds across the two topics.

Pure: no Kafka and no clock, so that its promises can be tested exhaustively.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

#: A topic's name and a partition's number.
Place = tuple[str, int]


class InPartition(Protocol):
    """What the tracker needs to know of a record."""

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
        """Its bytes in memory."""


R = TypeVar("R", bound=InPartition)


class InFlight(Generic[R]):
    """Records taken from the log or the retry topic and not yet finished.

    Records of one key start one after the other; keys run side by side. Of those of a key that
    wait, `newest` tells which one is worth starting. The committable
    offset of a partition is the lowest one that is unfinished, or where reading has come to: what
    no record is delivered of (the end of a transaction, what compaction has removed) is read, too.
    """

    def __init__(self, supersedes: Callable[[R], bool] = lambda _: False) -> None:
        """Holds nothing yet.

        Args:
            supersedes: whether a record is superseded by the next one of its key for which that
                holds, too, once that is written.
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
        """Take a record in. True if it may start now; else it waits for its key."""
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
        """Of a record that may start, and those of its key behind it: the one to start is the last.

        Those before it need no work of their own unless it ends without a row: then they still
        wait, and the first of them is what `finish` gives.
        """
        if first.key is None or not self._supersedes(first):
            return [first]
        return list(takewhile(self._supersedes, self._lanes[first.partition, first.key]))

    def reached(self, place: Place, offset: int) -> None:
        """Note that reading has come so far, with or without a record before it."""
        self._next[place] = max(offset, self._next.get(place, offset))

    def positions(self, topic: str) -> dict[int, int]:
        """By partition, where reading has come to in that topic."""
        return {place[1]: offset for place, offset in self._next.items() if place[0] == topic}

    def holds(self, record: R) -> bool:
        """Whether this very record is in flight: not finished, and its partition still ours.

        One that was read in an earlier assignment is another, even at the same offset.
        """
        place = (record.topic, record.partition)
        return self._unfinished.get(place, {}).get(record.offset) is record

    def finish(self, record: R) -> R | None:
        """Mark it finished; the next record of its key may start. Ignores what was forgotten."""
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
        """The offsets to commit: by place, those that moved since `committed` was told.

        Args:
            partitions: only those of these numbers, in either topic.
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
        """Note what the broker says that it has. Ignores what was forgotten."""
        for place, offset in offsets.items():
            if place in self._next:
                self._committed[place] = max(offset, self._committed.get(place, -1))

    def forget(self, partitions: Collection[int]) -> None:
        """Let go of the partitions of these numbers in both topics: they are no longer ours."""
        for place in [place for place in self._next if place[1] in partitions]:
            for record in self._unfinished.pop(place, {}).values():
                self.bytes -= record.size
            self._next.pop(place)
            self._committed.pop(place, None)
        for name in [name for name in self._lanes if name[0] in partitions]:
            del self._lanes[name]
