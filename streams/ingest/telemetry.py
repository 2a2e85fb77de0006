"""An ingest worker's metrics and health."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal, get_args

from pixtide.schemas.errors import FatalError, ReasonCode, TransientError
from pixtide.schemas.outcomes import OutcomeKind
from pixtide.streams.ingest.work import Work
from pixtide.streams.kafka.consumer_position import ConsumerPosition, Statistics
from pixtide.streams.kafka.errors import BrokerAwayError
from pixtide.streams.process.health import Health
from pixtide.streams.process.logs import about
from pixtide.streams.process.metrics import IngestMetrics
from pixtide.streams.process.overtaken import Late
from pixtide.streams.process.progress import Progress, stuck_at

Step = Literal["read", "fetch", "decode", "store", "look_up", "encode", "write", "report"]
Pause = Literal["full", "breaker", "stopping"]
_SECONDS_PER_MS = 0.001
#: Other records may overtake one for a while, because of a slow decoder or within a batch.
_TOLD_S = 60.0


class IngestWatch:
    """Safe to share between the worker's threads; `turned` and `paused` are for the main one."""

    def __init__(
        self,
        health: Health,
        metrics: IngestMetrics,
        generation: str,
        progress: Progress | None = None,
    ) -> None:
        self._health = health
        self._progress = progress or Progress(0, "record has finished")
        health.watch(lambda: self._progress.stalled)
        #: For each failing step: whether it is a Kafka client that gets no answer.
        self._no_answer: dict[Step, bool] = {}
        self._metrics = metrics
        self._generation = generation
        self._failing: Counter[Step] = Counter()
        self._lock = threading.Lock()
        self._paused: Pause | None = None
        self._breaks: str | None = None
        self._lagging: set[int] = set()
        self.idle = True
        self._read: dict[int, int] = {}
        self._resumed = 0
        for kind in OutcomeKind:  # so that there is a 0 before there is a 1
            metrics.outcomes.labels(generation, kind)
        for reason in get_args(Pause):
            metrics.paused.labels(generation, reason)
        for step in get_args(Step):
            metrics.retrying.labels(generation, step)
            metrics.retries.labels(generation, step)
        for code in ReasonCode:
            metrics.dead_letters.labels(generation, code)

    def turned(self, records: int, size: int) -> None:
        """The main loop has turned, with this much in flight."""
        self._health.beat()
        self.idle = records == 0
        self._metrics.in_flight_records.labels(self._generation).set(records)
        self._metrics.in_flight_bytes.labels(self._generation).set(size)

    def check(self) -> None:
        """Raises FatalError if only a restart helps."""
        if (why := self._health.lost) is not None:
            raise FatalError(f"{why}: starting again is what helps")

    def waits(self, records: int | None, *, cut_off: bool = False) -> None:
        """The broker answers: this many records wait; None if the group hasn't let this worker in.

        Args:
            cut_off: the worker's own consumer reaches no broker, though another client does.
        """
        self._progress.saw(records, excused=self.is_kept, cut_off=cut_off)

    def lags(self, lags: dict[int, int]) -> None:
        """How far this worker's partitions are behind the log; other partitions are left out."""
        for partition in self._lagging - lags.keys():
            self._metrics.lag.remove(self._generation, str(partition))
        for partition, lag in lags.items():
            self._metrics.lag.labels(self._generation, str(partition)).set(lag)
        self._lagging = set(lags)

    @property
    def is_kept(self) -> bool:
        """Whether a step fails that a restart wouldn't help; health reports it separately."""
        with self._lock:
            return self._breaks is not None or any(
                n and not self._no_answer.get(step) for step, n in self._failing.items()
            )

    def late(self, partitions: dict[int, float]) -> None:
        """For how long no records of these partitions have come."""
        self._progress.late(partitions)

    def overtaken(self, partitions: Late) -> None:
        """For how long a record of these partitions has been stuck in the worker."""
        self._progress.overtaken(partitions)
        told = max(partitions, key=lambda number: partitions[number], default=None)
        if told is None or partitions[told][0] <= _TOLD_S:
            self._health.report("partitions", None)
        else:
            seconds, offset = partitions[told]
            self._health.report("partitions", stuck_at(told, offset, seconds))

    def read_to(self, positions: dict[int, int], resumed: int) -> None:
        """How far each partition has been read, and how often reading was resumed."""
        self._read, self._resumed = positions, resumed

    def standing(self, statistics: Statistics) -> ConsumerPosition:
        """Where the worker is, according to its consumer and to itself."""
        full = self._paused is not None
        return statistics.standing(
            idle=self.idle, full=full, resumed=self._resumed, read=self._read
        )

    def retry_lag(self, records: int) -> None:
        """How many retries wait in this worker's partitions."""
        self._metrics.retry_lag.labels(self._generation).set(records)

    def commits(self, problem: str | None) -> None:
        """Why nothing can be committed, if so."""
        self._health.report("commit", problem)

    def breaks(self, problem: str | None) -> None:
        """Why no records are taken until the parts work again, if so."""
        if problem != self._breaks:
            self._breaks = problem
            self._health.report("breaker", problem)

    def paused(self, reason: Pause | None) -> None:
        """New records are paused for this reason, or resumed (None)."""
        if reason == self._paused:
            return
        self._paused = reason
        for each in get_args(Pause):
            self._metrics.paused.labels(self._generation, each).set(each == reason)
        self._health.report("worker", "is stopping" if reason == "stopping" else None)

    @contextlib.contextmanager
    def trying(self, step: Step) -> Iterator[Callable[[TransientError], None]]:
        """Wrap a step that is retried until it succeeds; yields a callable for each failure."""
        failed = False

        def fail(error: TransientError) -> None:
            nonlocal failed
            self._metrics.retries.labels(self._generation, step).inc()
            if not failed:
                self._count_failing(step, 1)
            failed = True
            self._no_answer[step] = isinstance(error, BrokerAwayError)
            self._health.report(step, str(error))

        try:
            yield fail
        finally:
            if failed:
                self._count_failing(step, -1)

    def _count_failing(self, step: Step, change: int) -> None:
        with self._lock:
            self._failing[step] += change
            self._metrics.retrying.labels(self._generation, step).set(self._failing[step])
            if not self._failing[step]:
                self._health.report(step, None)

    def encoded(self, pictures: int) -> None:
        """This many pictures went through the model at once."""
        self._metrics.batch_pictures.labels(self._generation).observe(pictures)

    def finished(self, work: Work, kind: OutcomeKind) -> None:
        """Count the outcome of a record."""
        self._progress.did()
        self._metrics.outcomes.labels(self._generation, kind).inc()
        if kind is OutcomeKind.DEAD_LETTERED and work.failure is not None:
            self._metrics.dead_letters.labels(self._generation, work.failure.code).inc()
        if work.span is not None:
            took = {f"{stage}_ms": ms for stage, ms in work.took_ms.items()}
            failed = work.failure.code if work.failure else None
            named = {"image_id": work.image_id or "", "generation": self._generation}
            work.span.end(error=failed, outcome=kind, **named, **took)
        for stage, took_ms in work.took_ms.items():
            seconds = took_ms * _SECONDS_PER_MS
            self._metrics.stage_seconds.labels(self._generation, stage).observe(seconds)

    def about(self, work: Work) -> AbstractContextManager[None]:
        """Wrap the work for one record: this thread's log lines name it meanwhile."""
        return about(**work.names(), generation=self._generation)
