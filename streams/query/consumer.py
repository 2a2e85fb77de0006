"""The query path: answers each request on `search.requests` on the reply topic that it names.

1. take    Take requests as they come.
2. read    Find the reply address, the deadline and the query. Put the request into a queue that is
           fair to all clients.
3. answer  Answer everything that waits as one batch, from one snapshot: the encoder and the
           collection of one generation.
4. reply   Send each reply. Acknowledge a request when the broker has its reply.

An idle consumer answers a request at once. A busy one answers in batches that grow with the load.
When the queue is full, requests are refused at once, with an error that allows a retry. Requests
that contain pictures are answered separately, so that a slow picture delays nobody else.

Faust does only the group membership and the commits. Its stream acknowledges a record even if the
agent raised. So every failure must become a reply here: one bad request costs one request. What
can't be read as a record at all is logged with its offset, counted, and skipped. The consumer ends
when it would answer wrongly if it went on, or when it no longer gets any records.
"""

import asyncio
import logging
import re
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka import KafkaError, KafkaException, Producer

from pixtide.schemas.errors import FatalError, QueryCode, RequestError
from pixtide.schemas.queries import SearchReply, SearchRequest, read_request
from pixtide.schemas.reply_address import (
    DEFAULT_DEADLINE_MS,
    ReplyAddress,
    check_correlation,
    check_names,
    deadline_ms,
    reply_address,
)
from pixtide.schemas.trace import Trace, trace_of
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.renewed_client import RenewedClient
from pixtide.streams.process.logs import about
from pixtide.streams.process.tracing import Span, begin
from pixtide.streams.query.answerer import Answers
from pixtide.streams.query.fair_queue import FairPlaces, FairQueue
from pixtide.streams.query.faust_app import died_of, faust_app
from pixtide.streams.query.ordered_acks import InOrder
from pixtide.streams.query.record_batches import NoRecord
from pixtide.streams.query.reply_cache import Encoded
from pixtide.streams.query.snapshots import Snapshots
from pixtide.streams.query.telemetry import QueryWatch

logger = logging.getLogger(__name__)

MAX_BATCH = 256
#: Answering threads: while one waits for the broker or the index, another one encodes.
_ANSWERERS = 2
#: The most bytes that waiting requests may have together, as they arrived.
_QUEUE_BYTES = 64 * 1024 * 1024
#: How many requests with pictures are in work at once, and how many more may wait. Of those in
#: work, one reply topic and one picture host may have so many. They mostly wait for some other
#: server.
_PICTURES, _PICTURES_WAITING = 16, 32
_PICTURES_OF_ONE = {"owner": 12, "host": 10}
#: A request with pictures that can't be answered gets an error reply this long before its deadline.
_BEFORE_S = 0.5
#: The consumer ends when Faust's consumer has reported itself dead for this long.
_DEAD_S = 10.0
_WARNINGS_A_SECOND = 10
_REFRESH_S = 1.0
_BEAT_S = 1.0
#: How long a stopping consumer waits for deliveries.
_DELIVER_S = 5.0
#: The most bytes of replies to one topic that may wait for the broker. Each reply counts this many
#: bytes more than its size. So a stuck topic leaves room for the other topics.
_MOST_WAITING, _OF_EACH = 32 * 1024 * 1024, 1024
#: Errors of a reply that no broker has answered.
_NO_ANSWER = (KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError._TRANSPORT)
#: How long a stopping consumer may take to leave the group.
_LEAVE_S = 5.0


@dataclass(frozen=True)
class Pending:
    """A request that can be replied to: what it asks, or why it can't be served.

    `names` identify it in log lines. The trace of `address` is that of `span`. `asked` is dropped
    after the answer, since it may hold pictures. `weight` is the request's size in bytes as it
    arrived.
    """

    address: ReplyAddress
    key: bytes | None
    expires_ms: int
    asked: SearchRequest | RequestError | None
    acknowledge: Callable[[], None]
    names: dict[str, object]
    span: Span
    weight: int


@dataclass(frozen=True)
class QueryParts:
    """The parts of a query consumer.

    `reply_topics` is a pattern of the topics that may be replied to; `queue` is how many requests
    may wait.
    """

    connection: KafkaConnection
    group: str
    topic: str
    reply_topics: str
    snapshots: Snapshots
    answers: Answers
    producer: RenewedClient[Producer]
    queue: int
    on_started: Callable[[Any], None]
    watch: QueryWatch


class QueryConsumer:
    """Answers search requests until stopped."""

    def __init__(self, parts: QueryParts) -> None:
        self._parts = parts
        self._allowed = re.compile(parts.reply_topics)
        self._queue: FairQueue[Pending] = FairQueue(parts.queue, _QUEUE_BYTES)
        self._arrived = asyncio.Event()
        self._unacknowledged = InOrder()
        self._settled: deque[Pending] = deque()  # done replies, from any thread
        self._waiting: Counter[str] = Counter()  # bytes of replies by topic, under the lock
        self._lock = threading.Lock()
        self._answerers = ThreadPoolExecutor(_ANSWERERS, thread_name_prefix="answer")
        self._aside = ThreadPoolExecutor(_PICTURES, thread_name_prefix="picture")
        self._places: FairPlaces[Pending] = FairPlaces(
            _PICTURES, _PICTURES_OF_ONE, _PICTURES_WAITING
        )
        self._hearing = threading.Thread(target=self._hear, name="deliveries", daemon=True)
        self._warned_at, self._warnings = 0.0, 0
        self._watch = parts.watch
        self._app = faust_app(parts.connection, parts.group, buffered=MAX_BATCH)
        requests = self._app.topic(
            parts.topic,
            key_serializer="raw",
            value_serializer="raw",
            key_type=bytes,
            value_type=bytes,
        )
        self._app.agent(requests, concurrency=1, name="search")(self._take)
        self._app.on_partitions_assigned.connect(self._assigned)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            FatalError: going on would answer wrongly.
        """
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        self._broken: asyncio.Future[None] = loop.create_future()  # by a picture request
        self._hearing.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await loop.run_in_executor(self._answerers, self._refresh)
        working: list[asyncio.Future[Any]] = [
            self._broken,
            asyncio.create_task(self._beat()),
            asyncio.create_task(self._keep_fresh()),
            *(asyncio.create_task(self._answer_forever()) for _ in range(_ANSWERERS)),
        ]
        await self._app.start()
        working.append(asyncio.create_task(self._look_after_faust()))
        self._parts.on_started(self._app)
        stopped: asyncio.Future[Any] = asyncio.create_task(stopping.wait())
        await asyncio.wait([stopped, *working], return_when=asyncio.FIRST_COMPLETED)
        self._watch.stopping()
        await asyncio.to_thread(self._parts.producer.now.flush, _DELIVER_S)
        self._acknowledge()  # or the next consumer would answer them again
        try:
            await asyncio.wait_for(self._app.stop(), _LEAVE_S)
        except TimeoutError:  # the broker is away; it will notice later that we left
            logger.warning("the broker did not answer our leave")
        for task in working:
            task.cancel()
        self._answerers.shutdown()
        self._aside.shutdown(wait=False, cancel_futures=True)
        if left := self._parts.producer.now.flush(_DELIVER_S):
            logger.warning("%d replies did not reach the broker", left)
        for task in working:
            if task.done() and not task.cancelled():
                task.result()  # raises what broke it

    async def _assigned(self, _: Any, assigned: Any, **__: Any) -> None:
        self._watch.assigned(where.partition for where in assigned)

    async def _beat(self) -> None:
        while True:
            self._look_after_deliveries()
            self._watch.turned()
            self._acknowledge()  # for replies outside the batches
            soon_ms = (time.time() + _BEAT_S + _BEFORE_S) * 1000
            for late in self._places.drop(lambda one: one.expires_ms < soon_ms):  # noqa: B023
                self._refuse(late)
            await asyncio.sleep(_BEAT_S)

    async def _look_after_faust(self) -> None:
        """Watch Faust's consumer: a dead one looks healthy from outside and answers nobody.

        Raises FatalError if it stays dead; for a moment this also happens in normal operation.
        """
        well_at = time.monotonic()
        while True:
            why = died_of(self._app)
            self._watch.consumes(why)
            if why is None:
                well_at = time.monotonic()
            elif time.monotonic() - well_at > _DEAD_S:
                raise FatalError(f"the consumer of {self._parts.topic} has died: {why}")
            await asyncio.sleep(_BEAT_S)

    def _look_after_deliveries(self) -> None:
        """Check the delivery thread: if it ends, nothing reports that and nothing restarts it."""
        if not self._hearing.is_alive():
            self._watch.broke("deliveries", "the thread that hears of them has ended")

    async def _keep_fresh(self) -> None:
        """Notice when the alias moves. Answers go on while the new encoder loads."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            await asyncio.to_thread(self._refresh)

    def _refresh(self) -> None:
        self._parts.snapshots.refresh()
        self._watch.looked(self._parts.snapshots)

    # 1. take

    async def _take(self, stream: Any) -> None:
        async for event in stream.noack().events():
            message = event.message
            self._watch.took(message.partition, message.offset)
            acknowledge = self._unacknowledged.take(message.partition, event.ack)
            try:
                self._put(message, acknowledge)
            except Exception:  # whatever the error is, it costs this request only
                with about(**_names(message, None)):
                    logger.exception("a request was not understood")
                acknowledge()
            event.value = message.value = None  # so that no picture stays in memory

    def _put(self, message: Any, acknowledge: Callable[[], None]) -> None:
        """Queue the request, or finish it at once."""
        pending = self._read(message, acknowledge)
        if pending is None:
            acknowledge()
        elif isinstance(pending.asked, SearchRequest) and pending.asked.has_pictures:
            self._answer_aside(pending, _host(pending.asked))
        else:
            for refused in self._queue.put(pending.address.topic, pending, pending.weight):
                self._refuse(refused)
            self._arrived.set()

    # 2. read

    def _read(self, message: Any, acknowledge: Callable[[], None]) -> Pending | None:
        """Read a request, or what is wrong with it; None if nobody can get a reply."""
        if isinstance(message.headers, NoRecord):
            self._pass(message, message.headers)
            return None
        headers = [(name, value or b"") for name, value in message.headers or ()]
        try:
            address = reply_address(headers, self._allowed)
        except PermissionError as error:
            with about(**_names(message, trace_of(headers))):
                self._warn("request without reply: %s", error)
            self._watch.metrics.forbidden.inc()
            return None
        of = {"messaging.system": "kafka", "messaging.destination.name": self._parts.topic}
        span = begin(f"answer {self._parts.topic}", "consumer", address.trace, of)
        address = replace(address, trace=span.trace)
        names = _names(message, address.trace)
        expires_ms, asked = self._asked(message, headers, address)
        weight = len(message.value or b"")
        return Pending(address, message.key, expires_ms, asked, acknowledge, names, span, weight)

    def _asked(
        self, message: Any, headers: Sequence[tuple[str, bytes]], address: ReplyAddress
    ) -> tuple[int, SearchRequest | RequestError]:
        """The deadline and the query. Every error in it becomes a typed reply."""
        since_ms = message.timestamp * 1000 if message.timestamp >= 0 else time.time() * 1000
        expires_ms = int(since_ms) + DEFAULT_DEADLINE_MS
        try:
            check_correlation(address)
            expires_ms = deadline_ms(headers, expires_ms)
            check_names(headers)
            return expires_ms, read_request(message.value)
        except RequestError as error:
            return expires_ms, error
        except Exception:
            with about(**_names(message, address.trace)):
                logger.exception("a request can't be read")
            return expires_ms, RequestError(QueryCode.INTERNAL, "the request can't be read")

    def _pass(self, message: Any, nothing: NoRecord) -> None:
        if nothing.reason is not None:
            self._watch.metrics.unreadable.inc(nothing.offsets)
            with about(**_names(message, None)):
                self._warn(
                    "passed what can't be read, %d at partition %d, offset %d: %s",
                    *(nothing.offsets, message.partition, message.offset, nothing.reason),
                )

    def _warn(self, message: str, *arguments: object) -> None:
        """Log a warning about bad input.

        Only some a second, so that many bad records don't fill the disk.
        """
        now = time.monotonic()
        if now - self._warned_at >= 1:
            self._warned_at, self._warnings = now, 0
        self._warnings += 1
        if self._warnings <= _WARNINGS_A_SECOND:
            logger.warning(message, *arguments)
        elif self._warnings == _WARNINGS_A_SECOND + 1:
            logger.warning("more of that within this second is counted in the metrics alone")

    # 3. answer

    async def _answer_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._watch.metrics.queue.set(len(self._queue))
            if batch := self._queue.take(MAX_BATCH):
                await loop.run_in_executor(self._answerers, self._serve, batch)
                self._acknowledge()
            else:
                self._arrived.clear()

    def _answer_aside(self, pending: Pending, host: str) -> None:
        """Answer in a picture thread. Snapshot and reply work as for any other request."""
        for refused in self._places.put(pending.address.topic, pending, host=host):
            self._refuse(refused)
        self._fill_places()

    def _fill_places(self) -> None:
        loop = asyncio.get_running_loop()
        while (following := self._places.take()) is not None:
            one, shares = following
            future = loop.run_in_executor(self._aside, self._serve_aside, one)
            future.add_done_callback(partial(self._leave_place, shares))

    def _leave_place(self, shares: Mapping[str, str], done: asyncio.Future[None]) -> None:
        self._places.leave(shares)
        if done.cancelled():
            return
        if (error := done.exception()) is None:
            self._fill_places()
        elif not self._broken.done():
            self._broken.set_exception(error)

    def _serve_aside(self, one: Pending) -> None:
        """Answer one request with pictures, which may take until shortly before its deadline."""
        left_s = one.expires_ms / 1000 - time.time() - _BEFORE_S
        self._serve([one], time.monotonic() + left_s)

    def _serve(self, batch: Sequence[Pending], until: float | None = None) -> None:
        now = time.time() * 1000
        pending = [each for each in batch if each.expires_ms > now]
        for each in batch:
            if each.expires_ms <= now:
                self._expired(each)
        self._watch.metrics.batch_requests.observe(len(pending))
        replies = self._parts.answers.to([each.asked for each in pending if each.asked], until)
        for one, reply in zip(pending, replies, strict=True):
            if until is not None and one.expires_ms <= time.time() * 1000:
                self._expired(one)
            else:
                self._send(one, reply)

    def _expired(self, one: Pending) -> None:
        self._watch.metrics.expired.inc()
        one.span.end(error="EXPIRED")
        self._settled.append(one)

    def _refuse(self, pending: Pending) -> None:
        error = RequestError(QueryCode.OVERLOADED, "more requests wait than can be served")
        self._send(pending, Encoded.of(SearchReply.failed(error)))

    # 4. reply

    def _send(self, one: Pending, reply: Encoded) -> None:
        one = replace(one, asked=None)
        self._watch.metrics.replies.labels(reply.code).inc()
        topic, weight = one.address.topic, len(reply.value) + _OF_EACH
        with self._lock:
            full = self._waiting[topic] > _MOST_WAITING
            self._waiting[topic] += 0 if full else weight
        if full:
            self._undelivered(one, "too many others to its topic wait")
            return

        def heard(error: KafkaError | None, _: object = None) -> None:
            with self._lock:
                self._waiting[topic] -= weight
                if not self._waiting[topic]:
                    del self._waiting[topic]
            try:
                self._delivered(one, reply, error)
            except Exception:  # else neither it nor later ones would be acknowledged
                logger.exception("a delivery was not understood")
                self._settled.append(one)

        try:
            self._parts.producer.now.produce(
                topic,
                reply.value,
                one.key,
                -1 if one.address.partition is None else one.address.partition,
                headers=one.address.headers(),  # type: ignore[arg-type]  # wants str | bytes
                on_delivery=heard,
            )
        except BufferError:
            heard(KafkaError(KafkaError._QUEUE_FULL))
        except KafkaException as error:
            heard(error.args[0])
        except Exception:  # the client refuses the topic, the key or the partition
            logger.exception("a reply could not be sent")
            heard(KafkaError(KafkaError._INVALID_ARG))

    def _delivered(self, one: Pending, reply: Encoded, error: KafkaError | None) -> None:
        """Handle a delivery report.

        The client or the broker refuses a reply that is too large; the broker's topic may allow
        less.
        """
        if error is None or error.code() >= 0:  # a broker has answered
            self._parts.producer.worked()
        elif error.code() in _NO_ANSWER:
            self._parts.producer.failed()
        if error is None:
            one.span.end(error=None if reply.code == "OK" else reply.code, code=reply.code)
            self._settled.append(one)
            return
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE and reply.code == "OK":
            message = "the reply is larger than its topic takes; ask for fewer results"
            too_large = RequestError(QueryCode.REPLY_TOO_LARGE, message)
            self._send(one, Encoded.of(SearchReply.failed(too_large)))
        else:
            self._undelivered(one, error.str())

    def _undelivered(self, one: Pending, why: str) -> None:
        one.span.end(error=why)
        self._watch.metrics.undelivered.inc()
        with about(**one.names):
            logger.warning("a reply was not delivered: %s", why)
        self._settled.append(one)

    def _hear(self) -> None:
        """Handle delivery reports in a thread of their own.

        So nobody waits for a delivery, and a missing topic doesn't delay other topics' replies.
        """
        while True:
            try:
                self._parts.producer.now.poll(_BEAT_S)
            except Exception:  # in a callback; the others must still run
                logger.exception("a delivery was not understood")

    def _acknowledge(self) -> None:
        """Acknowledge delivered and given-up requests.

        Runs in the event loop's thread, as Faust requires.
        """
        while self._settled:
            self._settled.popleft().acknowledge()


def _host(request: SearchRequest) -> str:
    """The host of its first picture."""
    try:
        return next((urlsplit(term.uri).netloc for term in request.terms if term.uri), "")
    except ValueError:
        return ""  # the fetch will fail at once


def _names(message: Any, trace: Trace | None) -> dict[str, object]:
    return {
        "partition": message.partition,
        "offset": message.offset,
        **(trace.names() if trace else {}),
    }
