"""Stops a worker that dead-letters nearly everything: then it is not the pictures that are bad."""

from collections import Counter, deque

from schemas.errors import FatalError, ReasonCode

#: Of the last records, the share of dead letters from which on they are no accident.
SHARE = 0.95


class Breaker:
    """Looks at the last `window` records that a worker has finished; 0 never stops it.

    A wrong setting, a blocked network or a producer gone mad turns one record after the other
    into a dead letter, whatever the code: better to stop, unready, than to work through the
    whole log so. What was dead-lettered until then can be tried again.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._recent: deque[ReasonCode | None] = deque(maxlen=window)
        self._dead = 0

    def count(self, failure: ReasonCode | None) -> None:
        """Note one finished record: the code of its dead letter, or None."""
        if self._window and len(self._recent) == self._window:
            self._dead -= self._recent[0] is not None
        self._recent.append(failure)
        self._dead += failure is not None

    def check(self) -> None:
        """Raises FatalError where as many dead letters are among the last `window` records."""
        if not self._window or self._dead < self._window * SHARE:
            return
        codes = Counter(code for code in self._recent if code is not None)
        most = ", ".join(f"{code} {count}" for code, count in codes.most_common(3))
        raise FatalError(
            f"{self._dead} of the last {len(self._recent)} records became dead letters ({most}): "
            "something is wrong with their source or this worker, rather than with each picture. "
            "See `pixtide dlq list`; when it is mended, start again and use `pixtide dlq retry`. "
            "PIXTIDE_BREAKER_WINDOW=0 goes on regardless"
        )
