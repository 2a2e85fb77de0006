"""Where a consumer is, according to itself: its partitions, and how far it has read in each."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_EVERY_S = 1.0
#: librdkafka reports a consumer's state when it polls; a consumer that is silent this long is
#: stuck.
_SILENT_S = 30.0
#: How long a group may take to rebalance, which is as long as its slowest member may take to
#: notice. Meanwhile a member still counts as one.
_REBALANCED_WITHIN_S = 150.0
_NONE: Mapping[int, int] = MappingProxyType({})
#: The states of a partition that is fetched, or will be.
_ASSIGNED = ("offset-query", "offset-wait", "active")


@dataclass(frozen=True)
class ConsumerPosition:
    """A consumer's own view of itself.

    `partitions` is None if it is in no group. `read` is the offset up to which a partition has been
    read; `committed` is the group's committed offset. `idle` is false while it has work, so that it
    needn't read on. `full` is true while it reads nothing because it has enough work; `resumed`
    counts how often it has read on since.
    """

    partitions: frozenset[int] | None = None
    committed: Mapping[int, int] = field(default_factory=dict)
    read: Mapping[int, int] = field(default_factory=dict)
    idle: bool = True
    full: bool = False
    resumed: int = 0


class Statistics:
    """librdkafka's statistics of a consumer of one topic, once a second.

    Args:
        retries: a second topic that it reads.
        on_retry_lag: called with how many records of that topic aren't committed in its partitions.
    """

    def __init__(
        self,
        topic: str,
        retries: str,
        on_retry_lag: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._retries = retries
        self._on_retry_lag = on_retry_lag
        self._clock = clock
        self._told_at = self._settled_at = float("-inf")
        self._last = ConsumerPosition()
        self.cut_off = False  # it reaches no broker that it could ask

    def configuration(self) -> dict[str, Any]:
        """To add to the consumer's configuration."""
        return {"statistics.interval.ms": int(_EVERY_S * 1000), "stats_cb": self.take}

    def take(self, statistics: str) -> None:
        """Read a report, in the JSON of librdkafka's STATISTICS.md."""
        told = json.loads(statistics)
        now = self._told_at = self._clock()
        if told.get("cgrp", {}).get("join_state") == "steady":
            self._settled_at = now
        sources = {broker["source"] for broker in told["brokers"].values()}
        self.cut_off = not sources & {"configured", "learned"}
        ours = _assigned(told, self._topic)
        retried = _assigned(told, self._retries).values()
        self._on_retry_lag(sum(max(0, p["consumer_lag"]) for p in retried))  # -1: not known yet
        self._last = ConsumerPosition(
            frozenset(ours),
            {number: p["committed_offset"] for number, p in ours.items()},
        )

    def standing(
        self, *, idle: bool, full: bool = False, resumed: int = 0, read: Mapping[int, int] = _NONE
    ) -> ConsumerPosition:
        """Where it is now, and what state it reports.

        During a rebalance, this doesn't change for a while.
        """
        now, last = self._clock(), self._last
        if now - self._told_at > _SILENT_S or now - self._settled_at > _REBALANCED_WITHIN_S:
            return ConsumerPosition()
        return ConsumerPosition(last.partitions, last.committed, read, idle, full, resumed)


def _assigned(told: dict[str, Any], topic: str) -> dict[int, dict[str, Any]]:
    partitions = told["topics"].get(topic, {}).get("partitions", {})
    return {int(n): p for n, p in partitions.items() if p["fetch_state"] in _ASSIGNED}
