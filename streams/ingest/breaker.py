"""Pauses a worker when one of its own parts seems broken, rather than the pictures.

A broken decoder, or an index that accepts no rows any more, would turn the whole log into dead
letters. So while nearly everything fails, the worker takes no new records. It resumes
automatically.

No publisher can stop a worker for long:

- Errors in a record or in its picture's address don't count. Nor do records that don't need the
  decoder, the model and the index. For each key, only the latest record counts.
- Somebody may send pictures that crash a decoder. So the decoder and the model are tested with a
  picture of our own. If they work, the worker resumes at once, past the failed records.
- What this test can't check is tried again after a pause. By then the failed records are dead
  letters and don't come again.
"""

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from pixtide.schemas.errors import ReasonCode
from pixtide.streams.kafka.side_calls import SideCall

logger = logging.getLogger(__name__)

#: The share of dead letters among the last counted records that means a broken part.
SHARE = 0.95
#: Codes that may come from a broken part which the check tests.
OF_PARTS = frozenset(
    {ReasonCode.DECODER_CRASHED, ReasonCode.DECODE_TIMEOUT, ReasonCode.INVALID_VECTOR}
)
#: Codes that may come from something of ours, whether or not the check can test it.
OF_OURS = OF_PARTS | {ReasonCode.UNEXPECTED, ReasonCode.REJECTED_BY_INDEX}
#: The first pause and the longest pause; each one doubles.
FIRST_S, LONGEST_S = 30.0, 300.0


class Breaker:
    """Looks at the last `window` records that count; 0 never pauses.

    For the worker's main thread. `check` returns what is wrong with the parts, if anything. It runs
    in its own thread, and may raise FatalError.
    """

    def __init__(
        self,
        window: int,
        check: Callable[[], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window = window
        self._check = check
        self._clock = clock
        self._recent: OrderedDict[int, ReasonCode | None] = OrderedDict()
        self._pause_s = FIRST_S
        self._until = 0.0
        self._checking = SideCall("self-check")
        self.problem: str | None = None

    def count(self, key: bytes | None, failure: ReasonCode | None) -> None:
        """Note one finished record: the code of its dead letter, or None for an indexed picture."""
        if not self._window or (failure is not None and failure not in OF_OURS):
            return
        name = hash(key)  # keys may be large
        self._recent.pop(name, None)
        self._recent[name] = failure
        if len(self._recent) > self._window:
            self._recent.popitem(last=False)
        if failure is None:
            self._pause_s = FIRST_S

    def turn(self) -> str | None:
        """Why the worker should take no more records, if so. Raises the error of the check."""
        self._checking.turn()
        if self.problem is None:
            self._trip()
        elif self._clock() >= self._until:
            self._checking.begin(self._check, self._checked)
        return self.problem

    def _trip(self) -> None:
        codes = Counter(code for code in self._recent.values() if code is not None)
        if not self._window or codes.total() < self._window * SHARE:
            return
        most = ", ".join(f"{code} {count}" for code, count in codes.most_common(3))
        self.problem = (
            f"{codes.total()} of the last {len(self._recent)} records became dead letters "
            f"({most}), as if a part of this worker were broken: it takes on no more for now. "
            "See its log and `pixtide dlq list`; once it is fixed, `pixtide dlq retry`. "
            "PIXTIDE_BREAKER_WINDOW=0 goes on regardless"
        )
        logger.error("%s", self.problem)
        # mostly errors that the check can't test: wait first, instead of checking at once
        if sum(codes[code] for code in OF_PARTS) * 2 < codes.total():
            self._wait()

    def _wait(self) -> None:
        self._until = self._clock() + self._pause_s
        logger.error("it looks again in %.0f s", self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_S)

    def _checked(self, found: str | None) -> None:
        if found is not None:
            self.problem = f"a part of this worker is broken, and it takes on no records: {found}"
            logger.error("%s", self.problem)
            self._wait()
            return
        logger.warning("the decoder and the model do well: going on, past what failed")
        self.problem, self._until = None, 0.0
        self._recent.clear()
