"""A bounded queue that is fair to those who share it."""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items wait in a line for each owner; lines are served in turn. For one thread."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lines: dict[str, deque[T]] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def put(self, owner: str, item: T) -> T | None:
        """Add an item; when the queue is full, give back what must be refused for it.

        That is the newest item of the longest line, which may be this one.
        """
        self._lines.setdefault(owner, deque()).append(item)
        if self._waiting < self._size:
            self._waiting += 1
            return None
        longest = max(self._lines, key=lambda name: (len(self._lines[name]), name == owner))
        refused = self._lines[longest].pop()
        if not self._lines[longest]:
            del self._lines[longest]
        return refused

    def take(self, most: int) -> list[T]:
        """Up to so many items, one of each line in turn, the oldest of each first."""
        taken: list[T] = []
        while self._lines and len(taken) < most:
            for owner in list(self._lines)[: most - len(taken)]:
                line = self._lines.pop(owner)
                taken.append(line.popleft())
                if line:
                    self._lines[owner] = line  # to the end of the round
        self._waiting -= len(taken)
        return taken
