"""What is in flight: each key in order, and how far each partition may be committed.

Pure: no Kafka and no clock, so that its promises can be tested exhaustively.
"""

from collections import deque
from collections.abc import Collection, Iterator
from typing import Generic, Protocol, TypeVar


class InPartition(Protocol):
    """What the tracker needs to know of a record."""

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
    """Records taken from the log and not yet finished.

    Records of one key start one after the other; keys run side by side. The committable
    offset of a partition is the lowest one that is unfinished, or the next to be read.
    """

    def __init__(self) -> None:
        self._unfinished: dict[int, dict[int, R]] = {}
        self._next: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._lanes: dict[tuple[int, bytes], deque[R]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._unfinished.values()))

    def __iter__(self) -> Iterator[R]:
        for records in self._unfinished.values():
            yield from records.values()

    def admit(self, record: R) -> bool:
        """Take a record in. True if it may start now; else it waits for its key."""
        self._unfinished.setdefault(record.partition, {})[record.offset] = record
        self._next[record.partition] = record.offset + 1
        self.bytes += record.size
        if record.key is None:
            return True
        lane = self._lanes.setdefault((record.partition, record.key), deque())
        lane.append(record)
        return len(lane) == 1

    def holds(self, record: R) -> bool:
        """Whether this very record is in flight: not finished, and its partition still ours."""
        return self._unfinished.get(record.partition, {}).get(record.offset) is record

    def finish(self, record: R) -> R | None:
        """Mark it finished; the next record of its key may start. Ignores what was forgotten."""
        if not self.holds(record):
            return None
        del self._unfinished[record.partition][record.offset]
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

    def committable(self, partitions: Collection[int] | None = None) -> dict[int, int]:
        """The offsets to commit: by partition, those that moved since `committed` was told."""
        moved = {}
        for partition, following in self._next.items():
            if partitions is not None and partition not in partitions:
                continue
            offset = min(self._unfinished.get(partition, ()), default=following)
            if offset > self._committed.get(partition, -1):
                moved[partition] = offset
        return moved

    def committed(self, offsets: dict[int, int]) -> None:
        """Note what has been committed."""
        self._committed.update(offsets)

    def forget(self, partitions: Collection[int]) -> None:
        """Let go of partitions: what is unfinished there is no longer ours."""
        for partition in partitions:
            for record in self._unfinished.pop(partition, {}).values():
                self.bytes -= record.size
            self._next.pop(partition, None)
            self._committed.pop(partition, None)
        for name in [name for name in self._lanes if name[0] in partitions]:
            del self._lanes[name]
