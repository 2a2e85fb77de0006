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
    """Delays an acknowledgement until all earlier ones of its partition are due.

    Faust commits up to the first gap *between* acknowledged offsets. It ignores a gap before the
    first of them, so a worker killed then would lose the records that it still works on. Used from
    one thread.
    """

    def __init__(self) -> None:
        self._taken: dict[int, deque[_Taken]] = {}

    def take(self, partition: int, acknowledge: Callable[[], Any]) -> Callable[[], None]:
        """Note a record that was taken; call the returned function when it is done."""
        queue = self._taken.setdefault(partition, deque())
        taken = _Taken(acknowledge)
        queue.append(taken)

        def done() -> None:
            taken.done = True
            while queue and queue[0].done:
                queue.popleft().acknowledge()

        return done

    def waits(self, partition: int) -> bool:
        """Whether a record of that partition isn't acknowledged yet."""
        return bool(self._taken.get(partition))
