"""A bounded queue, and a bounded set of places, that are fair to those who share them."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Each owner has a line of waiting items; lines take turns. For one thread.

    Args:
        size: how many items may wait.
        max_bytes: how many bytes they may have together.
    """

    def __init__(self, size: int, max_bytes: int) -> None:
        self._size = size
        self._max_bytes = max_bytes
        self._lines: dict[str, deque[tuple[T, int]]] = {}
        self._shares: Counter[str] = Counter()  # part of the queue by line, in `_share`'s unit
        self._waiting = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._waiting

    def put(self, owner: str, item: T, weight: int = 0) -> list[T]:
        """Add an item of so many bytes; returns the items to refuse because the queue is full.

        These are the newest items of the line with the largest part of the queue, perhaps this
        line.
        """
        self._lines.setdefault(owner, deque()).append((item, weight))
        self._count(owner, 1, weight)
        refused = []
        while self._waiting > self._size or self._bytes > self._max_bytes:
            longest = max(self._lines, key=lambda name: (self._shares[name], name == owner))
            last, weighed = self._lines[longest].pop()
            self._count(longest, -1, weighed)
            self._tidy(longest)
            refused.append(last)
        return refused

    def take(self, most: int) -> list[T]:
        """Up to so many items: one from each line in turn, the oldest of each line first."""
        taken: list[T] = []
        while self._lines and len(taken) < most:
            for owner in list(self._lines)[: most - len(taken)]:
                item, weight = self._lines[owner].popleft()
                self._count(owner, -1, weight)
                taken.append(item)
                self._lines[owner] = self._lines.pop(owner)  # to the end of the round
                self._tidy(owner)
        return taken

    def _count(self, owner: str, items: int, weight: int) -> None:
        self._waiting += items
        self._bytes += items * weight
        self._shares[owner] += items * (self._max_bytes + weight * self._size)

    def _tidy(self, owner: str) -> None:
        if not self._lines[owner]:
            del self._lines[owner], self._shares[owner]


@dataclass(frozen=True)
class _Waits(Generic[T]):
    item: T
    of: Mapping[str, str]


class FairPlaces(Generic[T]):
    """A limited number of items in work, with lower limits for one owner or one host.

    For one thread.

    Args:
        places: items in work at once.
        most: how many of these one may have, for each kind, as `{"owner": 12}`.
        waiting: how many more may wait; if there are more, the newest item of the owner with most
            of them is refused.
    """

    def __init__(self, places: int, most: Mapping[str, int], waiting: int) -> None:
        self._places = places
        self._most = dict(most)
        self._waiting = waiting
        self._lines: dict[str, deque[_Waits[T]]] = {}
        self._working: Counter[tuple[str, str]] = Counter()
        self._at_work = 0

    def put(self, owner: str, item: T, **others: str) -> list[T]:
        """Let an item wait for a place; returns the items to refuse because too many wait.

        `others` are further names with a limit, such as `host="example.org"`.
        """
        line = self._lines.setdefault(owner, deque())
        line.append(_Waits(item, {"owner": owner, **others}))
        free = self._places - self._at_work
        if sum(map(len, self._lines.values())) <= self._waiting + free:
            return []
        longest = max(self._lines, key=lambda name: (len(self._lines[name]), name == owner))
        refused = self._lines[longest].pop()
        if not self._lines[longest]:
            del self._lines[longest]
        return [refused.item]

    def take(self) -> tuple[T, Mapping[str, str]] | None:
        """The next item that gets a place, or None; pass its second part to `leave` at the end."""
        if self._at_work >= self._places:
            return None
        for owner, line in self._lines.items():
            waits = next((each for each in line if self._has_room(each.of.items())), None)
            if waits is not None:
                line.remove(waits)
                del self._lines[owner]
                if line:
                    self._lines[owner] = line  # to the end of the round
                self._at_work += 1
                self._working.update(waits.of.items())
                return waits.item, waits.of
        return None

    def drop(self, wanted: Callable[[T], bool]) -> list[T]:
        """Remove the waiting items for which this is true, and return them."""
        dropped = []
        for owner, line in list(self._lines.items()):
            dropped += [waits.item for waits in line if wanted(waits.item)]
            self._lines[owner] = deque(waits for waits in line if not wanted(waits.item))
            if not self._lines[owner]:
                del self._lines[owner]
        return dropped

    def leave(self, of: Mapping[str, str]) -> None:
        """Give back the place of an item that is done."""
        self._at_work -= 1
        for share in of.items():
            self._working[share] -= 1
            if not self._working[share]:
                del self._working[share]

    def _has_room(self, shares: Iterable[tuple[str, str]]) -> bool:
        return all(
            self._working[share] < self._most.get(share[0], self._places) for share in shares
        )
