"""Pauses a worker whose own parts seem to be what is wrong: then it is not the pictures.

A decoder that is broken, or a row that no index takes any more, would turn the whole log into dead
letters. So the worker takes on no more while nearly all fails, and goes on by itself.

No publisher can end a worker, nor stop it for long:

- What is wrong with a record or with its picture's address doesn't count, nor do records that have
  no need of the decoder, the model and the index. Of one key the latest record alone counts.
- Pictures may be made to crash a decoder. So the decoder and the model are tried with a picture of
  our own: where they do well, the worker goes on at once, past the records that failed.
- What that can't show is tried again after a pause. The records that failed are dead letters by
  then, and don't come again.
"""

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from pixtide.schemas.errors import ReasonCode
from pixtide.streams.kafka.side_calls import SideCall

logger = logging.getLogger(__name__)

#: Of the last records that count, the share of dead letters from which on they are no accident.
SHARE = 0.95
#: What may be the fault of a part that the check tries.
OF_PARTS = frozenset(
    {ReasonCode.DECODER_CRASHED, ReasonCode.DECODE_TIMEOUT, ReasonCode.INVALID_VECTOR}
)
#: What may be ours, and no check can tell.
OF_OURS = OF_PARTS | {ReasonCode.UNEXPECTED, ReasonCode.REJECTED_BY_INDEX}
#: The first pause, and the longest that it grows to.
FIRST_S, LONGEST_S = 30.0, 300.0


class Breaker:
    """Looks at the last `window` records that say something of a worker; 0 never pauses it.

    For its main thread. `check` says what is wrong with the parts, if anything; it is called in
    a thread of its own, and may raise FatalError.
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
        """Note one finished record: the code of its dead letter, or None where a picture is in."""
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
        """Why no more records are to be taken on, if so. Raises what the check has raised."""
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
        # what the check can tell is known at once
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
