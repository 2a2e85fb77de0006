"""Follows a request topic to its end where no request stands before it.

The markers of a publisher's transactions, and what is kept no longer, take offsets and are never
delivered, so Faust, which commits what was acknowledged, stays before them: it would seem for ever
that requests wait. aiokafka's position goes past them.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from faust.types import TP

from streams.query_watch import QueryWatch

logger = logging.getLogger(__name__)

_EVERY_S = 2.0
#: For so many looks nothing may have come from a partition, nor its position have moved: whatever
#: the consumer had fetched by then has been taken.
_QUIET = 3
_ASK_S = 5.0


class QuietEnds:
    """Of one query consumer, in its event loop."""

    def __init__(
        self, app: Any, topic: str, watch: QueryWatch, has_work: Callable[[int], bool]
    ) -> None:
        """`has_work` tells whether a request of that partition isn't acknowledged yet."""
        self._app = app
        self._topic = topic
        self._watch = watch
        self._has_work = has_work
        self._quiet: dict[int, tuple[int, tuple[int, int]]] = {}

    async def follow(self) -> None:
        """Look, now and then, and commit where a partition has come to without a request."""
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await asyncio.wait_for(self._look(), _ASK_S)
            except Exception as error:  # noqa: BLE001  # of a consumer that is in a rebalance, say
                logger.debug("where the requests end isn't known: %r", error)

    async def _look(self) -> None:
        for number in self._watch.partitions:
            place, taken = TP(self._topic, number), self._watch.taken(number)
            position = await self._app.consumer.position(place) or 0
            looks, before = self._quiet.get(number, (0, (0, 0)))
            quiet = looks + 1 if before == (position, taken) else 0
            self._quiet[number] = quiet, (position, taken)
            if quiet < _QUIET or position <= taken or self._has_work(number):
                continue
            if await self._app.consumer._commit({place: position}):
                self._watch.reached(number, position)
