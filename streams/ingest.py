"""The ingest path: each record of `images.uploaded` from the log to the index.

1. poll    a record; one whose picture is already in work waits its turn
2. fetch   read its event and get the picture's bytes
3. decode  them, in a process of their own, into the model's pixels
4. batch   what is ready with what the index knows; leave out what a newer row stands above
5. encode  the pictures whose content isn't known yet
6. write   the rows, newest wins; then report outcomes and dead letters until delivered
7. commit  each partition's lowest unfinished offset

The main thread does 1 and 7 and never waits for the others, so a slow model, picture or
server never costs the group membership. A few threads do 2 and 3, one thread does 4 to 6.
Whatever goes wrong has one verdict (see schemas/errors.py): transient is tried again with the
record kept, poison becomes a dead letter and goes on, fatal ends the worker.
"""

import contextlib
import hashlib
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition

from encoders.decoding import DecoderPool
from encoders.images import extension_of
from encoders.port import Encoder
from schemas.codec import decode_event, image_id_of
from schemas.errors import FatalError, PoisonError, ReasonCode, TransientError
from schemas.events import ImageDeleted, ImageEvent, ImageUploaded, PictureAt
from schemas.identity import Partitioner, Version, partition_of
from schemas.outcomes import OutcomeKind
from search.generations import Generation
from search.port import VectorIndex, Written
from streams.fetch import Fetcher, OriginalGoneError
from streams.host_lanes import HostLanes
from streams.image_store import ImageStore
from streams.ingest_watch import IngestWatch, Step
from streams.kafka import record_of, verdict
from streams.log_guard import LogGuard
from streams.logs import about
from streams.offsets import InFlight
from streams.reporter import Reporter
from streams.work import Work

logger = logging.getLogger(__name__)
T = TypeVar("T")

_POLL_S = 0.05
_COMMIT_EVERY_S = 1.0
_BATCH_LINGER_S = 0.03
_RETRY_FIRST_S, _RETRY_LAST_S = 0.2, 10.0
#: How long a stopping worker finishes what it has begun.
GRACE_S = 20.0


class _StoppedError(Exception):
    """The worker is stopping, and this work with it: it stays uncommitted."""


@dataclass(frozen=True)
class IngestLimits:
    """How much a worker takes on at once."""

    records: int
    bytes: int
    batch: int
    fetchers: int
    fetchers_per_host: int
    keep_all_originals: bool
    partitioner: Partitioner


@dataclass(frozen=True)
class IngestParts:
    """What a worker is made of."""

    consumer: Consumer
    guard: LogGuard
    fetcher: Fetcher
    store: ImageStore
    decoders: DecoderPool
    encoder: Encoder
    index: VectorIndex
    generation: Generation
    is_live: Callable[[], bool]
    reporter: Reporter
    watch: IngestWatch


class IngestWorker:
    """One worker of one generation's group."""

    def __init__(self, parts: IngestParts, limits: IngestLimits) -> None:
        self._parts = parts
        self._limits = limits
        self._flight: InFlight[Work] = InFlight()
        self._fetchers = ThreadPoolExecutor(limits.fetchers, thread_name_prefix="fetch")
        self._lanes = HostLanes(self._fetchers, limits.fetchers_per_host)
        self._lock = threading.Lock()  # held while rows are written, and while partitions change
        self._ready: queue.Queue[Work] = queue.Queue()
        self._done: queue.Queue[Work] = queue.Queue()
        self._stopping = threading.Event()
        self._abandon = threading.Event()
        self._broken: BaseException | None = None
        self._paused = False
        self._committed_at = 0.0

    def stop(self) -> None:
        """Finish what is in flight, commit, and return from `run`. Safe in a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Work until stopped.

        Raises:
            FatalError: going on would lose or corrupt something.
        """
        parts = self._parts
        indexer = threading.Thread(target=self._index_forever, name="index", daemon=True)
        indexer.start()
        parts.consumer.subscribe(
            [parts.generation.log.topic],
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._lost,
        )
        deadline: float | None = None
        try:
            while True:
                if self._broken is not None:
                    raise self._broken
                if self._stopping.is_set():
                    deadline = deadline or time.monotonic() + GRACE_S
                    if not self._flight or time.monotonic() > deadline:
                        break
                self._poll()
                parts.watch.turned(len(self._flight), self._flight.bytes)
                self._commit()
                parts.guard.check_now_and_then()
        finally:
            self._abandon.set()
            self._ready.put(_END)
            self._fetchers.shutdown(wait=False, cancel_futures=True)
            indexer.join(timeout=GRACE_S)
            parts.consumer.close()  # commits through _revoked

    # 1. poll

    def _poll(self) -> None:
        self._pause_or_resume()
        message = self._parts.consumer.poll(0 if self._done.qsize() else _POLL_S)
        if message is not None and (error := message.error()) is not None:
            problem = verdict(error)
            if isinstance(problem, FatalError):
                raise problem
            logger.warning("%s", problem)
        elif message is not None:
            record = record_of(message)
            log = self._parts.generation.log
            work = Work(record, Version(log.epoch, record.partition, record.offset))
            if self._flight.admit(work):
                self._fetchers.submit(self._take_up, work)
        self._finish_done()

    def _finish_done(self) -> None:
        while not self._done.empty():
            following = self._flight.finish(self._done.get())
            if following is not None and not self._abandon.is_set():
                self._fetchers.submit(self._take_up, following)

    def _pause_or_resume(self) -> None:
        """Pause when full; resume at half, since each pause throws away what was prefetched."""
        share = 0.5 if self._paused else 1.0
        full = (
            self._stopping.is_set()
            or len(self._flight) >= self._limits.records * share
            or self._flight.bytes >= self._limits.bytes * share
        )
        if full != self._paused:
            consumer = self._parts.consumer
            (consumer.pause if full else consumer.resume)(consumer.assignment())
            self._paused = full
        stopping = self._stopping.is_set()
        self._parts.watch.paused("stopping" if stopping else "full" if full else None)

    # 2. fetch, 3. decode

    def _take_up(self, work: Work) -> None:
        """Prepare it where its host has room, else when it has."""
        self._lanes.run(self._host_asked(work), lambda: self._prepare(work))

    def _host_asked(self, work: Work) -> str | None:
        try:
            event = self._read_event(work)
        except Exception:  # noqa: BLE001  # whatever it is, `_prepare` meets it again
            return None
        if isinstance(event, ImageDeleted):
            return None
        return self._parts.fetcher.host_of(event.picture)

    def _prepare(self, work: Work) -> None:
        try:
            if self._flight.holds(work):
                with about(**work.names(), generation=self._parts.generation.name):
                    self._fetch_and_decode(work)
            self._ready.put(work)
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001  # not lost: the main thread raises it
            self._broken = error

    def _fetch_and_decode(self, work: Work) -> None:
        stage: Step = "read"
        try:
            event = self._read_event(work)
            if isinstance(event, ImageDeleted):
                work.ask_delete(event.image_id)
                return
            stage = "fetch"
            with work.timed(stage):
                data = self._patiently(stage, lambda: self._parts.fetcher.fetch(event.picture))
                sha256 = hashlib.sha256(data).hexdigest()
                if event.sha256 not in (None, sha256):
                    raise PoisonError(
                        ReasonCode.DIGEST_MISMATCH, f"the picture's sha256 is {sha256}"
                    )
            stage = "decode"
            with work.timed(stage):
                crop = self._parts.encoder.crop
                picture = self._patiently(stage, lambda: self._parts.decoders.decode(data, crop))
            uri = self._patiently("store", lambda: self._keep_original(event, picture.format, data))
            work.ask_live(event, picture, uri=uri, sha256=sha256, size=len(data))
        except OriginalGoneError:
            work.superseded = True
        except PoisonError as error:
            work.fail(stage, error)

    def _read_event(self, work: Work) -> ImageEvent:
        record, log = work.record, self._parts.generation.log
        work.image_id = image_id_of(record.key)
        wanted = partition_of(record.key or b"", log.partitions, self._limits.partitioner)
        if wanted not in (None, record.partition):
            raise PoisonError(
                ReasonCode.WRONG_PARTITION,
                f"the key belongs to partition {wanted}; set the producer's partitioner "
                f"to {self._limits.partitioner} (in librdkafka: murmur2_random)",
            )
        return decode_event(record.key, record.value, record.headers, record.timestamp_ms)

    def _keep_original(self, upload: ImageUploaded, picture_format: str, data: bytes) -> str:
        """Where the original lies for good; only the live generation writes it there."""
        store, picture = self._parts.store, upload.picture
        if isinstance(picture, PictureAt) and (
            store.owns(picture.uri) or not self._limits.keep_all_originals
        ):
            return picture.uri
        extension = extension_of(picture_format)
        if self._parts.is_live():
            return store.put(upload.image_id, data, extension)
        return store.uri_of(upload.image_id, data, extension)

    # 4. batch

    def _index_forever(self) -> None:
        try:
            while True:
                batch = [self._ready.get()]
                until = time.monotonic() + _BATCH_LINGER_S
                with contextlib.suppress(queue.Empty):
                    while len(batch) < self._limits.batch:
                        batch.append(self._ready.get(timeout=max(0, until - time.monotonic())))
                if _END in batch:
                    return
                self._index(batch)
                for work in batch:
                    self._done.put(work)
        except _StoppedError:
            return
        except BaseException as error:  # noqa: BLE001  # not lost: the main thread raises it
            self._broken = error

    def _index(self, batch: Sequence[Work]) -> None:
        ids = [work.row.image_id for work in batch if work.row]
        known = self._patiently("look_up", lambda: self._parts.index.get(ids))
        for work in batch:
            stored = known.get(work.row.image_id) if work.row else None
            if work.row is None or stored is None:
                continue
            if stored.version.newer_than(work.version):
                work.superseded = True
            elif work.picture and stored.sha256 == work.row.sha256 and stored.vector is not None:
                work.give_vector(stored.vector)
        self._encode(batch)
        self._write(batch)

    # 5. encode

    def _encode(self, batch: Sequence[Work]) -> None:
        wanted = [(w, w.picture) for w in batch if w.picture is not None and not w.superseded]
        if not wanted:
            return
        started = time.perf_counter()
        pixels = np.stack([picture.pixels for _, picture in wanted])
        vectors = self._patiently("encode", lambda: self._parts.encoder.encode_pictures(pixels))
        took_ms = round((time.perf_counter() - started) * 1000 / len(wanted), 2)
        self._parts.watch.encoded(len(wanted))
        for (work, _), vector in zip(wanted, vectors, strict=True):
            work.took_ms["encode"] = took_ms
            if np.isfinite(vector).all():
                work.give_vector(vector)
            else:
                message = "the model gave a vector that is not finite or has no length"
                work.fail("encode", PoisonError(ReasonCode.INVALID_VECTOR, message))

    # 6. write

    def _write(self, batch: Sequence[Work]) -> None:
        started = time.perf_counter()
        results = self._patiently("write", lambda: self._write_ours(batch))
        refused = [(work, result.error) for work, result in results.items() if result.error]
        for work, message in refused:
            work.fail("write", PoisonError(ReasonCode.REJECTED_BY_INDEX, message))
        if refused:
            results |= self._patiently(
                "write", lambda: self._write_ours([work for work, _ in refused])
            )
        took_ms = round((time.perf_counter() - started) * 1000 / len(batch), 2)
        for work in batch:
            work.took_ms["write"] = took_ms
        self._patiently("store", lambda: self._remove_obsolete(results))
        self._report(batch, results)
        self._patiently("report", self._parts.reporter.deliver)

    def _write_ours(self, batch: Sequence[Work]) -> dict[Work, Written]:
        with self._lock:  # so that no partition is let go while its rows are being written
            ours = [
                (w, w.row) for w in batch if w.row and not w.superseded and self._flight.holds(w)
            ]
            if not ours:
                return {}
            written = self._parts.index.write([row for _, row in ours])
            return {work: result for (work, _), result in zip(ours, written, strict=True)}

    def _remove_obsolete(self, results: dict[Work, Written]) -> None:
        """Originals that the rows written have replaced."""
        store = self._parts.store
        for work, result in results.items():
            previous = result.previous
            if not result.applied or previous is None or work.row is None:
                continue
            obsolete = previous.uri
            if obsolete != work.row.uri and store.owns(obsolete) and self._parts.is_live():
                store.remove(obsolete, datetime.fromtimestamp(work.record.timestamp_ms / 1000, UTC))

    def _report(self, batch: Sequence[Work], results: dict[Work, Written]) -> None:
        for work in filter(self._flight.holds, batch):
            kind = work.outcome(results.get(work))
            if kind is OutcomeKind.DEAD_LETTERED and work.failure is not None:
                where = f"{work.record.partition}@{work.record.offset} {work.image_id or ''}"
                with about(**work.names(), generation=self._parts.generation.name):
                    logger.warning(
                        "dead letter %s: %s: %s", where, work.failure.code, work.failure.message
                    )
                self._parts.reporter.dead_letter(work.record, work.failure)
            self._parts.reporter.outcome(work, kind)
            self._parts.watch.finished(work, kind)

    # 7. commit

    def _commit(self) -> None:
        if time.monotonic() - self._committed_at < _COMMIT_EVERY_S:
            return
        self._committed_at = time.monotonic()
        self._commit_offsets(self._flight.committable(), asynchronous=True)

    def _commit_offsets(self, offsets: dict[int, int], *, asynchronous: bool) -> None:
        if not offsets:
            return
        topic = self._parts.generation.log.topic
        positions = [TopicPartition(topic, p, offset) for p, offset in offsets.items()]
        try:
            if asynchronous:
                self._parts.consumer.commit(offsets=positions)
            else:
                self._parts.consumer.commit(offsets=positions, asynchronous=False)
            self._flight.committed(offsets)
        except KafkaException as error:
            # Not lost: the next commit says more, and a record read twice changes nothing.
            logger.warning("commit failed: %s", error.args[0].str())

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            self._parts.guard.check_assigned(consumer, partitions)
        except FatalError as error:
            self._broken = error
        consumer.incremental_assign(partitions)
        if self._paused:
            consumer.pause(partitions)

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = [p.partition for p in partitions]
        with self._lock:
            self._finish_done()
            self._commit_offsets(self._flight.committable(numbers), asynchronous=False)
            self._flight.forget(numbers)

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        logger.warning("lost %d partitions: the session expired", len(partitions))
        with self._lock:
            self._flight.forget([p.partition for p in partitions])

    def _patiently(self, step: Step, attempt: Callable[[], T]) -> T:
        """Try until it succeeds; only a stop ends it. The main thread goes on polling."""
        pause = _RETRY_FIRST_S
        with self._parts.watch.trying(step) as failed:
            while True:
                try:
                    return attempt()
                except TransientError as error:
                    failed(error)
                    logger.warning("%s; trying again in about %.1f s", error, pause)
                if self._abandon.wait(pause * random.uniform(0.5, 1.0)):  # noqa: S311  # jitter
                    raise _StoppedError
                pause = min(pause * 2, _RETRY_LAST_S)


_END: Any = object()
