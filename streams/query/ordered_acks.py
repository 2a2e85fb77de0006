"""Acknowledges records in the order in which they were taken, whichever is done first."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class _Taken:
    acknowledge: Callable[[], Any]
    done: bool = False


class InOrder:
    """Holds an acknowledgement back until all before it, in its partition, are due.

    Faust commits up to the first gap *between* acknowledged offsets: it looks past one that is
    missing at their head, so that a worker killed then would lose what it still works on. Used
    from one thread.
    """

    def __init__(self) -> None:
        self._taken: dict[int, deque[_Taken]] = {}

    def take(self, partition: int, acknowledge: Callable[[], Any]) -> Callable[[], None]:
        """Note a record that was taken; call what comes back when it is done."""
        queue = self._taken.setdefault(partition, deque())
        taken = _Taken(acknowledge)
        queue.append(taken)

        def done() -> None:
            taken.done = True
            while queue and queue[0].done:
                queue.popleft().acknowledge()

        return done

    def waits(self, partition: int) -> bool:
        """Whether a record of it isn't acknowledged yet."""
        return bool(self._taken.get(partition))
