"""The ingest path: takes each record of `images.uploaded` from the log to the index.

1. poll     Take a record. While an older record of the same picture is in work, it waits. When
            several wait for one picture, only the newest goes on. The older ones are superseded
            as soon as the newest one's row is written.
2. fetch    Read the event and get the picture's bytes. Skip the fetch if another generation of
            the same model already has the row of exactly this record.
3. look up  Ask the index what it has for this id and for this content. Drop the record if the
            index has a newer row.
4. decode   Turn the bytes into the model's pixels, in a separate process. Skip this if the index
            already has a vector of the same content.
5. encode   Compute the vectors of the pictures whose content is new. Each content once.
6. write    Check that the log is still the same log, then write the rows; the newest version
            wins. Then report outcomes and dead letters, until they are delivered.
7. commit   Commit each partition up to its lowest unfinished offset.

The main thread does steps 1 and 7. It never waits for the other steps, so a slow model, picture or
server never costs the worker its group membership. The other steps have threads of their own:

- 2: a few threads read events and a few others fetch, with a limit for each host.
- 3 and 6: one thread each.
- 4: a few threads.
- 5: two threads on a GPU, which computes one batch at a time. On a CPU a few threads, each of
  which encodes a batch on its share of the cores.

So pictures are decoded, encoded and written in parallel.

Every error has exactly one verdict (see schemas/errors.py). Transient: try again and keep the
record. Poison: write a dead letter and go on. Fatal: stop the worker. An unexpected error counts as
poison for the record that raised it. If a whole batch raises one, its records are tried one by one
to find the bad record.

A record of `images.uploaded.retry` is a dead letter that is tried again. It takes the same steps,
with the version of its source record. So it fixes its row, or it is too late and changes nothing.
"""

import contextlib
import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from confluent_kafka import Consumer

from pixtide.encoders.isolation import encode_each
from pixtide.encoders.pictures.decoder_pool import DecoderPool
from pixtide.encoders.pictures.images import Picture
from pixtide.encoders.port import Encoder
from pixtide.encoders.reserve import Reserve
from pixtide.encoders.self_check import check_parts
from pixtide.schemas.errors import FatalError, PoisonError, ReasonCode, TransientError
from pixtide.schemas.events import ImageUploaded, InlinePicture
from pixtide.schemas.identity import Partitioner
from pixtide.schemas.outcomes import OutcomeKind
from pixtide.search.generations import LogIdentity
from pixtide.search.port import StoredImage, VectorIndex, Written
from pixtide.streams.ingest.assignment import Assignment
from pixtide.streams.ingest.breaker import Breaker
from pixtide.streams.ingest.host_limit import HostLimit
from pixtide.streams.ingest.in_flight import InFlight
from pixtide.streams.ingest.kept_originals import Originals
from pixtide.streams.ingest.pause_detector import PauseDetector
from pixtide.streams.ingest.rate_limit import RateLimit
from pixtide.streams.ingest.record_reader import RecordReader
from pixtide.streams.ingest.reporter import Reporter
from pixtide.streams.ingest.retry import Retry, StoppedError
from pixtide.streams.ingest.row_copier import RowCopier
from pixtide.streams.ingest.start_positions import Positions
from pixtide.streams.ingest.telemetry import IngestWatch, Pause
from pixtide.streams.ingest.unexpected import is_unexpected, poison_of
from pixtide.streams.ingest.work import Work, timed
from pixtide.streams.kafka.log_guard import LogGuard
from pixtide.streams.originals.fetcher import OUR_DISKS, OUR_STORE, Fetcher, OriginalGoneError
from pixtide.streams.process.overtaken import Overtaken

logger = logging.getLogger(__name__)

_POLL_S = 0.05
_BATCH_LINGER_S = 0.03
#: How often to look for stuck records.
_LOOK_S = 1.0
#: How long a stopping worker may take to finish what it has started.
GRACE_S = 20.0
#: Records may fill 1/n of the bytes in flight, for this n; the rest is for their pictures.
_RECORDS_PART = 4
#: Threads that read events and take inline pictures out of them.
_READERS = 4


@dataclass(frozen=True)
class IngestLimits:
    """How much a worker takes on at once: `bytes` of records, pictures and pixels.

    `session_s` is how long the group waits for a member that has gone silent. `max_rate` is in
    records a second. Normally, an original that is missing from our own store means that a newer
    record exists. `only_latest` says that every record is the latest of its key, so that a missing
    original is an error.
    """

    records: int
    bytes: int
    picture_bytes: int
    batch: int
    decoders: int
    encoders: int
    fetchers: int
    fetchers_per_host: int
    breaker_window: int
    session_s: float
    max_rate: float | None = None
    only_latest: bool = False


@dataclass(frozen=True)
class IngestParts:
    """The parts of a worker. `connect` makes its consumer; `retries` is the retry topic."""

    connect: Callable[[dict[str, Any]], Consumer]
    positions: Positions
    guard: LogGuard
    retries: LogIdentity
    partitioner: Partitioner
    fetcher: Fetcher
    originals: Originals
    decoders: DecoderPool
    encoder: Encoder
    index: VectorIndex
    reporter: Reporter
    watch: IngestWatch
    sibling: RowCopier | None = None


class IngestWorker:
    """One worker in the consumer group of one generation."""

    def __init__(self, parts: IngestParts, limits: IngestLimits) -> None:
        self.limits = limits
        self._parts = parts
        self._flight: InFlight[Work] = InFlight(lambda work: not work.is_retry)
        self._assignment = Assignment(
            parts.connect,
            parts.positions,
            self._flight,
            retry_topic=parts.retries.topic,
            settle=self._finish_done,
        )
        self._patiently = Retry(parts.watch)
        self._reader = RecordReader(parts.guard, parts.retries, parts.partitioner, self._patiently)
        self._crop = parts.encoder.crop
        self._crop_bytes = 3 * self._crop.size**2
        self._most_record_bytes = max(1, limits.bytes // _RECORDS_PART)
        # the largest picture in base64, and its metadata
        self._most_read_bytes = limits.picture_bytes * 3 // 2 + 2**20
        for_pictures = limits.bytes - self._most_record_bytes
        self._memory = Reserve(max(for_pictures, limits.picture_bytes, self._crop_bytes))
        self._breaker = Breaker(limits.breaker_window, self._check_parts)
        self._overtaken = Overtaken()
        self._looked_at = 0.0
        self._pace = RateLimit(limits.max_rate)
        self._standstill = PauseDetector(limits.session_s)
        # Reading and fetching have separate pools, because a fetch may wait for memory that only
        # decoding frees.
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read")
        self._fetchers = ThreadPoolExecutor(limits.fetchers, thread_name_prefix="fetch")
        most = max(1, limits.fetchers - 1)  # no host gets all the threads
        self._lanes = HostLimit(
            self._fetchers,
            min(limits.fetchers_per_host, most),
            wide={OUR_STORE: most, OUR_DISKS: most},
        )
        # As many as fetchers, since these threads also store originals. The number of decoding
        # processes is limited separately.
        self._decoders = ThreadPoolExecutor(limits.fetchers, thread_name_prefix="decode")
        self._free_decoders = threading.Semaphore(limits.decoders)
        self._fetched: queue.Queue[Work] = queue.Queue()
        self._ready: queue.Queue[Work] = queue.Queue()
        self._encoded: queue.Queue[Work] = queue.Queue()
        self._done: queue.Queue[Work] = queue.Queue()
        batch = limits.batch
        #: For each thread: its queue, how many items at once, how long it waits for more, its step.
        self._steps = (
            # the index takes as long for many rows as for one
            (self._fetched, limits.records, _BATCH_LINGER_S, self._look_up),
            *[(self._ready, batch, _BATCH_LINGER_S, self._encode)] * limits.encoders,
            (self._encoded, limits.records, 0.0, self._write),
        )
        self._stopping = threading.Event()
        self._broken: BaseException | None = None

    def stop(self) -> None:
        """Finish what is in flight, commit, and return from `run`. Safe in a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Work until stopped.

        Raises:
            FatalError: going on would lose or corrupt something.
        """
        threads = self._start()
        self._assignment.join()
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
                self._assignment.commit_now_and_then()  # 7. commit
                self._parts.watch.commits(self._assignment.problem)
                self._parts.watch.breaks(self._breaker.turn())
                self._parts.watch.turned(len(self._flight), self._flight.bytes)
                self._look_now_and_then()
                self._parts.watch.check()
                self._parts.guard.check_now_and_then()
        finally:
            self._end(threads)

    def _look_now_and_then(self) -> None:
        if (now := time.monotonic()) - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        watch = self._parts.watch
        watch.overtaken(self._overtaken.look(self._flight, excused=watch.is_kept))
        watch.read_to(self._flight.positions(self._parts.positions.topic), self._assignment.resumed)

    def _start(self) -> list[threading.Thread]:
        threads = [
            threading.Thread(target=self._guarded, args=(self._batches, *step), daemon=True)
            for step in self._steps
        ]
        for thread in threads:
            thread.start()
        return threads

    def _end(self, threads: Iterable[threading.Thread]) -> None:
        self._patiently.give_up()
        self._memory.close()
        for source, *_ in self._steps:
            source.put(_END)
        for pool in (self._readers, self._fetchers, self._decoders):
            pool.shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + GRACE_S
        for thread in threads:
            thread.join(timeout=max(0, until - time.monotonic()))
        self._assignment.leave()

    def _guarded(self, step: Callable[..., None], *args: Any) -> None:
        """Run a step in its own thread; the main thread raises what the step can't handle."""
        try:
            step(*args)
        except StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001  # not lost: the main thread raises it
            self._broken = self._broken or error

    @contextlib.contextmanager
    def _costing(self, work: Work, stage: str) -> Iterator[None]:
        """Wrap the work for one record, so that its errors fail this record only."""
        try:
            yield
        except PoisonError as error:
            work.fail(stage, error)
        except BaseException as error:
            if not is_unexpected(error):
                raise
            self._fail_unexpectedly(work, stage, error)

    def _fail_unexpectedly(
        self, work: Work, stage: str, error: BaseException, code: ReasonCode = ReasonCode.UNEXPECTED
    ) -> None:
        with self._parts.watch.about(work):
            logger.error(
                "unexpected at %s of %s %d@%d: it becomes a dead letter",
                *(stage, work.topic, work.partition, work.offset),
                exc_info=error,
            )
        work.fail(stage, poison_of(error, code))

    def _together(
        self, stage: str, batch: Sequence[Work], step: Callable[[Sequence[Work]], None]
    ) -> None:
        """Run a step for the whole batch; after an unexpected error, run it record by record."""
        if not batch:
            return
        if len(batch) == 1:
            with self._costing(batch[0], stage):
                step(batch)
            return
        try:
            step(batch)
        except BaseException as error:
            if not (is_unexpected(error) or isinstance(error, PoisonError)):
                raise
            logger.warning("%s fails for %d records: one by one now: %r", stage, len(batch), error)
            for work in batch:
                self._together(stage, [work], step)

    def _batches(
        self,
        source: queue.Queue[Work],
        most: int,
        linger_s: float,
        step: Callable[[list[Work]], None],
    ) -> None:
        while True:
            batch = [source.get()]
            until = time.monotonic() + linger_s
            with contextlib.suppress(queue.Empty):
                while batch[-1] is not _END and len(batch) < most:  # each thread needs its own end
                    batch.append(source.get(timeout=max(0, until - time.monotonic())))
            if _END in batch or self._patiently.is_over:  # the end may be far back in the queue
                return
            step(batch)

    # 1. poll

    def _poll(self) -> None:
        full = self._is_full()
        self._assignment.pause(wanted=full)
        self._parts.watch.paused(self._why_paused(full))
        record = self._assignment.poll(0 if self._done.qsize() else _POLL_S)
        self._standstill.polled()
        if record is not None:
            work = self._reader.begin(record.bounded(self._most_read_bytes))
            if self._flight.admit(work):
                self._start_newest(work)
        self._lanes.wake()
        self._finish_done()

    def _finish_done(self) -> None:
        while not self._done.empty():
            work = self._done.get()
            self._overtaken.finished(work)
            self._memory.give_back(work.reserved)
            if self._flight.holds(work) and (work.failure or work.is_live):
                self._breaker.count(work.key, work.failure.code if work.failure else None)
            for older in work.passed if work.row_stands else ():
                self._flight.finish(older)
            following = self._flight.finish(work)
            if following is not None and not self._patiently.is_over:
                self._start_newest(following, strays=work.strays)

    def _start_newest(self, work: Work, *, strays: bool = False) -> None:
        *passed, newest = self._flight.newest(work)
        newest.passed, newest.strays = passed, strays
        newest.enter()
        self._readers.submit(self._guarded, self._take_up, newest)

    def _why_paused(self, full: bool) -> Pause | None:
        if self._stopping.is_set():
            return "stopping"
        return "breaker" if self._breaker.problem else "full" if full else None

    def _check_parts(self) -> str | None:
        with self._free_decoders:
            return check_parts(self._parts.decoders, self._parts.encoder)

    def _is_full(self) -> bool:
        """Whether the worker is full. Once paused, it counts as full until it is half empty.

        Each pause drops what was prefetched, so pauses must be rare.
        """
        share = 0.5 if self._assignment.is_paused else 1.0
        return (
            self._stopping.is_set()
            or self._breaker.problem is not None
            or len(self._flight) >= self.limits.records * share
            or self._flight.bytes >= self._most_record_bytes * share
        )

    # 2. fetch

    def _take_up(self, work: Work) -> None:
        """Read the event, then fetch: inline pictures here, others when their host has room."""
        self._patiently.rest(self._pace.wait_s())
        host = None
        with self._costing(work, "read"):
            if self._flight.holds(work):
                with self._parts.watch.about(work):
                    self._reader.read(work)
                    self._copy_known(work)
                    self._look_for_strays(work)
                if work.upload is not None:
                    host = self._parts.fetcher.host_of(work.upload.picture)
        if host is None:
            self._fetch(work, "")
            return
        work.since = None
        with contextlib.suppress(RuntimeError):  # the pool is shut down: the worker is ending
            self._fetchers.submit(self._lanes.run, host, self._fetching(work, host))

    def _fetching(self, work: Work, host: str) -> Callable[[], None]:
        return partial(self._guarded, self._fetch, work, host)

    def _look_for_strays(self, work: Work) -> None:
        owns = self._parts.fetcher.owns
        work.strays |= any(self._reader.names_original(each, owns) for each in work.passed)

    def _copy_known(self, work: Work) -> None:
        """Copy the live row of exactly this record from a generation of the same model."""
        sibling, upload = self._parts.sibling, work.upload
        if sibling is None or upload is None:
            return
        row = self._patiently("look_up", lambda: sibling.row_of(upload.image_id, work.version))
        if row is not None and not self._patiently(
            "store", lambda: self._parts.originals.lacks(upload, row)
        ):
            work.ask_same(row)

    def _fetch(self, work: Work, host: str) -> None:
        work.enter()
        pause_s: float | None = None
        with self._costing(work, "fetch"):
            try:
                if work.upload is not None and work.failure is None and self._flight.holds(work):
                    with self._parts.watch.about(work):
                        self._fetch_picture(work, work.upload)
            except OriginalGoneError as error:
                if self.limits.only_latest:
                    raise PoisonError(ReasonCode.SOURCE_GONE, str(error)) from error
                work.supersede()
            except TransientError as error:
                pause_s = self._pause_after(work, error)
        self._free(work)
        if pause_s is not None:  # hold no thread and no memory during the pause
            work.since = None
            self._lanes.run_later(host, self._fetching(work, host), pause_s)
            return
        self._end_trouble(work)
        work.enter()
        self._fetched.put(work)

    def _fetch_picture(self, work: Work, upload: ImageUploaded) -> None:
        picture, most = upload.picture, self.limits.picture_bytes
        known = len(picture.data) if isinstance(picture, InlinePicture) else most
        work.reserved = max(min(known, most), self._crop_bytes)
        self._memory.take(work.reserved)
        work.trial = work.trial or self._parts.fetcher.trial(picture)
        with timed("fetch", work):
            data = self._parts.fetcher.attempt(picture, work.trial)
        work.data, work.sha256 = data, hashlib.sha256(data).hexdigest()
        if upload.sha256 not in (None, work.sha256):
            message = "the picture isn't the one whose sha256 the event names"
            raise PoisonError(ReasonCode.DIGEST_MISMATCH, message)

    def _pause_after(self, work: Work, error: TransientError) -> float:
        """How long to wait before the next attempt to fetch the picture.

        While our own store doesn't answer at all, no record is to blame, and none is given up.

        Raises:
            PoisonError: SOURCE_UNAVAILABLE, when the time for this picture is used up.
        """
        if work.upload is None or work.trial is None:
            raise error
        if not self._parts.fetcher.is_away(work.upload.picture):
            self._end_trouble(work)
            pause_s = work.trial.next_pause(error)
            logger.info("%s; trying again in %.1f s", error, pause_s)
            return pause_s
        if work.tell is None:
            work.tell = work.trouble.enter_context(self._parts.watch.trying("fetch"))
        work.tell(error)
        pause_s = work.trial.next_pause_while_away()
        logger.warning("%s; trying again in %.1f s", error, pause_s)
        return pause_s

    def _end_trouble(self, work: Work) -> None:
        work.trouble.close()
        work.tell = None

    def _free(self, work: Work) -> None:
        """Give back the memory that was reserved for the record but isn't in use, or no longer."""
        keep = 0
        if work.data is not None:
            keep = max(len(work.data), self._crop_bytes)
        elif work.pixels is not None:
            keep = self._crop_bytes
        self._memory.give_back(work.reserved - keep)
        work.reserved = keep

    # 3. look up

    def _look_up(self, batch: Sequence[Work]) -> None:
        asking = [work for work in batch if work.image_id and work.wants_row]
        self._together("look_up", asking, self._ask_index)
        for work in batch:
            if work.upload is not None and work.data is not None:
                self._decoders.submit(self._guarded, self._decode, work, work.upload, work.data)
            else:
                self._ready.put(work)

    def _ask_index(self, batch: Sequence[Work]) -> None:
        index = self._parts.index
        asking = {work: work.image_id for work in batch if work.image_id}
        with timed("look_up", *asking):
            known = self._patiently("look_up", lambda: index.get(set(asking.values())))
            new = {w.sha256 for w in asking if w.data and not w.has_content(known.get(asking[w]))}
            twins = self._patiently("look_up", lambda: index.with_content(new)) if new else {}
        for work, image_id in asking.items():
            stored = known.get(image_id)
            if stored is not None and stored.version.newer_than(work.version):
                work.supersede()
                work.row_stands = True
                self._free(work)
            else:
                work.twin = stored if work.has_content(stored) else twins.get(work.sha256)

    # 4. decode

    def _decode(self, work: Work, upload: ImageUploaded, data: bytes) -> None:
        with self._costing(work, "decode"):
            if self._flight.holds(work):
                seen: Picture | StoredImage | None = work.twin
                if seen is None:
                    with self._free_decoders, timed("decode", work):
                        seen = self._patiently(
                            "decode", lambda: self._parts.decoders.decode(data, self._crop)
                        )
                kind = seen.format
                with timed("store", work):
                    uri = self._patiently(
                        "store",
                        lambda: self._parts.originals.keep(upload, work.version, kind, data),
                    )
                work.ask_live(upload, seen, uri)
        self._free(work)
        self._ready.put(work)

    # 5. encode

    def _encode(self, batch: Sequence[Work]) -> None:
        wanted = [work for work in batch if work.pixels is not None]
        self._together("encode", wanted, self._encode_pictures)
        for work in batch:
            self._encoded.put(work)

    def _encode_pictures(self, wanted: Sequence[Work]) -> None:
        pictures = {work.sha256: work.pixels for work in wanted if work.pixels is not None}
        with timed("encode", *wanted):
            pixels = np.stack(list(pictures.values()))
            try:
                vectors = self._patiently(
                    "encode", lambda: encode_each(self._parts.encoder, pixels)
                )
            except BaseException as error:
                if is_unexpected(error) and len(pictures) == 1:
                    self._require_encoder()
                raise
        self._parts.watch.encoded(len(pictures))
        by_content = dict(zip(pictures, vectors, strict=True))
        for work in wanted:
            vector = by_content[work.sha256]
            if np.isfinite(vector).all():
                work.give_vector(vector)
            else:
                message = "the model fails on it, or its vector is not finite or has no length"
                work.fail("encode", PoisonError(ReasonCode.INVALID_VECTOR, message))

    def _require_encoder(self) -> None:
        """Raises FatalError if the model fails whatever the picture."""
        try:
            self._parts.encoder.warm_up()
        except BaseException as error:
            if not is_unexpected(error):
                raise
            raise FatalError(f"the model fails: {type(error).__name__}: {error}") from error

    # 6. write

    def _write(self, batch: Sequence[Work]) -> None:
        read_at = max(work.read_at for work in batch)
        self._patiently("write", lambda: self._parts.guard.vouch(read_at))
        with timed("write", *batch):
            results = self._written(batch)
            for work, result in results.items():
                if result.error:
                    error = PoisonError(ReasonCode.REJECTED_BY_INDEX, result.error)
                    work.fail("write", error)
            refused = [work for work in batch if work.failure and self._is_refused(work, results)]
            results |= self._written(refused)
            for work in refused:
                if self._is_refused(work, results):  # the dead-lettered row as well
                    work.fail_without_row()
            for work, result in results.items():
                work.row_stands = result.error is None
            self._remove_obsolete(results)
        self._report(batch, results)
        for work in batch:
            self._done.put(work)

    def _is_refused(self, work: Work, results: dict[Work, Written]) -> bool:
        """Whether the record needs a row and the index has accepted none."""
        if work.row is None or not self._flight.holds(work):
            return False
        result = results.get(work)
        return result is None or result.error is not None

    def _written(self, batch: Sequence[Work]) -> dict[Work, Written]:
        """The index's answer for each row; a row that fails unexpectedly has no answer."""
        if not batch:
            return {}
        try:
            return self._patiently("write", lambda: self._write_ours(batch))
        except BaseException as error:
            if not is_unexpected(error):
                raise
            if len(batch) == 1:
                wrong_row = isinstance(error, ValueError)
                code = ReasonCode.REJECTED_BY_INDEX if wrong_row else ReasonCode.UNEXPECTED
                self._fail_unexpectedly(batch[0], "write", error, code)
                return {}
            logger.warning("writing fails for %d rows: one by one now: %r", len(batch), error)
        results: dict[Work, Written] = {}
        for work in batch:
            results |= self._written([work])
        return results

    def _remove_obsolete(self, results: dict[Work, Written]) -> None:
        """Remove the originals that the new rows replaced. An error here doesn't undo the rows."""

        def remove(some: dict[Work, Written]) -> None:
            self._patiently("store", lambda: self._parts.originals.remove_obsolete(some))

        try:
            remove(results)
        except BaseException as error:
            if not is_unexpected(error):
                raise
            for work, result in results.items():
                try:
                    remove({work: result})
                except BaseException as again:
                    if not is_unexpected(again):
                        raise
                    logger.error(
                        "an original of %s may be left over", work.image_id, exc_info=again
                    )

    def _write_ours(self, batch: Iterable[Work]) -> dict[Work, Written]:
        with self._assignment.lock:  # no partition is released while its rows are being written
            self._standstill.check()
            ours = [(w, w.row) for w in batch if w.row and self._flight.holds(w)]
            if not ours:
                return {}
            written = self._parts.index.write([row for _, row in ours])
            return {work: result for (work, _), result in zip(ours, written, strict=True)}

    def _report(self, batch: Sequence[Work], results: dict[Work, Written]) -> None:
        kinds = {}
        for work in filter(self._flight.holds, batch):
            for older in work.passed if work.row_stands else ():
                kinds[older] = OutcomeKind.SUPERSEDED
            kinds[work] = work.outcome(results.get(work))
        with timed("report", *kinds):
            for work in kinds:
                try:
                    self._tell(work, kinds[work])
                except BaseException as error:
                    if not is_unexpected(error):
                        raise
                    self._fail_unexpectedly(work, "report", error)
                    kinds[work] = OutcomeKind.DEAD_LETTERED
                    self._tell(work, kinds[work], without_headers=True)
            self._patiently("report", self._parts.reporter.deliver)
        for work, kind in kinds.items():
            try:
                self._parts.watch.finished(work, kind)
            except BaseException as error:
                if not is_unexpected(error):
                    raise
                logger.error("what became of %s is not counted", work.image_id, exc_info=error)

    def _tell(self, work: Work, kind: OutcomeKind, *, without_headers: bool = False) -> None:
        reporter = self._parts.reporter
        if kind is OutcomeKind.DEAD_LETTERED and work.failure is not None:
            where = f"{work.source.partition}@{work.source.offset} {work.image_id or ''}"
            with self._parts.watch.about(work):
                logger.warning(
                    "dead letter %s: %s: %s", where, work.failure.code, work.failure.message
                )
            reporter.dead_letter(work, work.failure, without_headers=without_headers)
        reporter.outcome(work, kind)


_END: Any = object()
