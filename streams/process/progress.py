"""Whether a worker that has work gets any done: besides its main loop, what makes it live."""

import time
from collections.abc import Callable

from pixtide.streams.process.overtaken import Late

#: A worker is checked every few seconds. If the broker was away for longer, waiting starts again.
_UNSEEN_S = 60.0
#: A consumer that reaches no broker while another client does recovers only by a restart.
_CUT_OFF_S = 60.0


class Progress:
    """Progress of one worker. Safe to share between threads.

    Nothing notices a Kafka client that is stuck inside: it raises nothing and its process looks
    healthy. So this checks that work gets done if there is any, according to another client. It
    checks the whole worker, and each of its partitions, however busy the others are.

    Args:
        limit_s: how long no work may get done; 0: for ever.
        done: the work, in the words of the error message.
    """

    def __init__(
        self, limit_s: float, done: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit_s = limit_s
        self._done = done
        self._clock = clock
        self._since = self._connected_at = clock()
        self._seen_at = float("-inf")
        self._late: dict[int, float] = {}
        self._overtaken: Late = {}
        self._stalled: str | None = None

    @property
    def stalled(self) -> str | None:
        """Why only a restart helps, if so: for the whole worker, or for one partition."""
        return self._stalled or self._stalled_partition()

    def did(self) -> None:
        """A piece of work is done."""
        self._since = self._clock()

    def late(self, partitions: dict[int, float]) -> None:
        """For how long records of these partitions have waited without any coming."""
        self._late = partitions

    def overtaken(self, partitions: Late) -> None:
        """For how long a record of these partitions has been in work while later ones finished."""
        self._overtaken = partitions

    def _stalled_partition(self) -> str | None:
        if not self._limit_s:
            return None
        for partition, (seconds, offset) in self._overtaken.items():
            if seconds > self._limit_s:
                return stuck_at(partition, offset, seconds)
        for partition, seconds in self._late.items():
            if seconds > self._limit_s:
                return f"records of partition {partition} have not come for {seconds:.0f} s"
        return None

    def saw(self, waiting: int | None, *, excused: bool = False, cut_off: bool = False) -> None:
        """The broker has answered: so much work waits.

        Args:
            waiting: None if the group has not let the worker in.
            excused: another problem stops it from working, and is reported elsewhere.
            cut_off: its own consumer reaches no broker.
        """
        now = self._clock()
        unseen, self._seen_at = now - self._seen_at > _UNSEEN_S, now
        if unseen or excused or waiting == 0:
            self._since = now
        if excused:
            self._late = {}
        if unseen or not cut_off:
            self._connected_at = now
        self._stalled = self._judged(waiting, now)

    def _judged(self, waiting: int | None, now: float) -> str | None:
        if not self._limit_s:
            return None
        if (silent_s := now - self._connected_at) > min(_CUT_OFF_S, self._limit_s):
            return f"its consumer has known no broker for {silent_s:.0f} s, and others are answered"
        if (idle_s := now - self._since) <= self._limit_s:
            return None
        if waiting is None:
            return f"its group has not let it in for {idle_s:.0f} s"
        return f"no {self._done} for {idle_s:.0f} s, though {waiting} wait and the broker answers"


def stuck_at(partition: int, offset: int, seconds: float) -> str:
    """The message about a partition with a stuck record."""
    return (
        f"partition {partition} is stuck at offset {offset}: later records have finished for "
        f"{seconds:.0f} s"
    )
