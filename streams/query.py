"""The query path: each request on `search.requests` to a reply on the topic that it names.

1. take    the requests as they come
2. read    where each reply goes, until when, and what is asked; queue it, fair to all clients
3. answer  what waits, as one batch from one snapshot: one generation's encoder and collection
4. reply   to each, and acknowledge a request when the broker has its reply

An idle consumer answers a request at once; a busy one in batches that grow with the load. More
than the queue takes is refused, at once and retryably. Requests that bring pictures along are
answered aside, so that a slow picture holds nobody up.

Faust gives the group membership and commits; the rest is ours. Its stream acknowledges a record
even where the agent raised, so every failure becomes a reply, here.
"""

import asyncio
import logging
import re
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.errors import QueryCode, RequestError
from schemas.queries import SearchReply, SearchRequest, read_request
from schemas.reply_address import (
    DEFAULT_DEADLINE_MS,
    ReplyAddress,
    check_correlation,
    deadline_ms,
    reply_address,
)
from schemas.trace import Trace, trace_of
from streams.acknowledgements import InOrder
from streams.answers import Answers
from streams.fair_queue import FairQueue
from streams.faust_app import faust_app, fetcher_ended
from streams.kafka_connection import KafkaConnection
from streams.lasting import Lasting
from streams.logs import about
from streams.query_ends import QuietEnds
from streams.query_watch import QueryWatch
from streams.reply_cache import Encoded
from streams.snapshots import Snapshots
from streams.tracing import Span, begin

logger = logging.getLogger(__name__)

MAX_BATCH = 256
#: Answering threads: while one waits for the broker or the index, another encodes.
_ANSWERERS = 2
#: Requests with pictures that are in work, and more of them that wait.
_PICTURES, _PICTURES_WAITING = 4, 32
_REFRESH_S = 1.0
_BEAT_S = 1.0
#: How long a stopping consumer waits for deliveries.
_DELIVER_S = 5.0
#: Replies to one topic that wait for the broker, in bytes, each counted as so many more: those to
#: one that is stuck leave room for the others'.
_MOST_WAITING, _OF_EACH = 32 * 1024 * 1024, 1024
#: Of a reply that no broker has answered for.
_NO_ANSWER = (KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError._TRANSPORT)
#: How long a stopping consumer takes leave of the broker.
_LEAVE_S = 5.0


@dataclass(frozen=True)
class Pending:
    """A request that can be replied to: what it asks, or why it can't be served.

    `names` are what log lines call it; the trace of `address` is that of `span`. What is `asked` is
    let go of once it is answered, since it may hold pictures.
    """

    address: ReplyAddress
    key: bytes | None
    expires_ms: int
    asked: SearchRequest | RequestError | None
    acknowledge: Callable[[], None]
    names: dict[str, object]
    span: Span


@dataclass(frozen=True)
class QueryParts:
    """What a query consumer is made of.

    `reply_topics` says which topics may be replied to; `queue` is how many requests may wait.
    """

    connection: KafkaConnection
    group: str
    topic: str
    reply_topics: str
    snapshots: Snapshots
    answers: Answers
    producer: Lasting[Producer]
    queue: int
    on_started: Callable[[Any], None]
    watch: QueryWatch


class QueryConsumer:
    """Answers search requests until stopped."""

    def __init__(self, parts: QueryParts) -> None:
        self._parts = parts
        self._allowed = re.compile(parts.reply_topics)
        self._queue: FairQueue[Pending] = FairQueue(parts.queue)
        self._arrived = asyncio.Event()
        self._unacknowledged = InOrder()
        self._settled: deque[Pending] = deque()  # filled by whoever hears of a delivery
        self._waiting: Counter[str] = Counter()  # bytes of replies by topic, under the lock
        self._lock = threading.Lock()
        self._answerers = ThreadPoolExecutor(_ANSWERERS, thread_name_prefix="answer")
        self._aside = ThreadPoolExecutor(_PICTURES, thread_name_prefix="picture")
        self._aside_waiting: set[asyncio.Future[None]] = set()
        self._hearing = threading.Thread(target=self._hear, name="deliveries", daemon=True)
        self._watch = parts.watch
        self._app = faust_app(parts.connection, parts.group, buffered=MAX_BATCH * 4)
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
        self._hearing.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await loop.run_in_executor(self._answerers, self._refresh)
        working = [asyncio.create_task(self._beat()), asyncio.create_task(self._keep_fresh())]
        working += [asyncio.create_task(self._answer_forever()) for _ in range(_ANSWERERS)]
        await self._app.start()
        self._parts.on_started(self._app)
        ends = QuietEnds(self._app, self._parts.topic, self._watch, self._unacknowledged.waits)
        working.append(asyncio.create_task(ends.follow()))
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait([stopped, *working], return_when=asyncio.FIRST_COMPLETED)
        self._watch.stopping()
        await asyncio.to_thread(self._parts.producer.now.flush, _DELIVER_S)
        self._acknowledge()  # or the next consumer would answer them again
        try:
            await asyncio.wait_for(self._app.stop(), _LEAVE_S)
        except TimeoutError:  # the broker is away; it will find out by itself that we left
            logger.warning("the broker did not answer our leave")
        for task in working:
            task.cancel()
        self._answerers.shutdown()
        self._aside.shutdown(wait=False, cancel_futures=True)
        if left := self._parts.producer.now.flush(_DELIVER_S):
            logger.warning("%d replies did not reach the broker", left)
        for task in working:
            if task.done() and not task.cancelled():
                task.result()  # what broke it is fatal

    async def _assigned(self, _: Any, assigned: Any, **__: Any) -> None:
        self._watch.assigned(where.partition for where in assigned)

    async def _beat(self) -> None:
        while True:
            self._look_for_the_dead()
            self._watch.turned()
            self._acknowledge()  # replies that no batch has waited for
            await asyncio.sleep(_BEAT_S)

    def _look_for_the_dead(self) -> None:
        """What ends without a word, and is started again by nobody here."""
        if not self._hearing.is_alive():
            self._watch.broke("deliveries", "the thread that hears of them has ended")
        if self._app.crashed:
            self._watch.broke("faust", f"crashed: {self._app.crash_reason!r}")
        if (why := fetcher_ended(self._app)) is not None:
            self._watch.broke("fetcher", why)

    async def _keep_fresh(self) -> None:
        """Notice a moved alias; loading its encoder doesn't hold up the answers."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            await asyncio.to_thread(self._refresh)

    def _refresh(self) -> None:
        self._parts.snapshots.refresh()
        self._watch.looked(self._parts.snapshots)

    # 1. take

    async def _take(self, stream: Any) -> None:
        async for event in stream.noack().events():
            self._watch.took(event.message.partition, event.message.offset)
            acknowledge = self._unacknowledged.take(event.message.partition, event.ack)
            pending = self._read(event.message, acknowledge)
            event.value = event.message.value = None  # one held back keeps no picture in memory
            if pending is None:
                acknowledge()
            elif isinstance(pending.asked, SearchRequest) and pending.asked.has_pictures:
                self._answer_aside(pending)
            else:
                refused = self._queue.put(pending.address.topic, pending)
                self._arrived.set()
                if refused is not None:
                    self._refuse(refused)

    # 2. read

    def _read(self, message: Any, acknowledge: Callable[[], None]) -> Pending | None:
        headers = [(name, value or b"") for name, value in message.headers or ()]
        try:
            address = reply_address(headers, self._allowed)
        except PermissionError as error:
            with about(**_names(message, trace_of(headers))):
                logger.warning("request without reply: %s", error)
            self._watch.metrics.forbidden.inc()
            return None
        asked: SearchRequest | RequestError
        expires_ms = default_ms = int(message.timestamp * 1000) + DEFAULT_DEADLINE_MS
        try:
            check_correlation(address)
            expires_ms = deadline_ms(headers, default_ms)
            asked = read_request(message.value)
        except RequestError as error:
            asked = error
        of = {"messaging.system": "kafka", "messaging.destination.name": self._parts.topic}
        span = begin(f"answer {self._parts.topic}", "consumer", address.trace, of)
        address = replace(address, trace=span.trace)
        names = _names(message, address.trace)
        return Pending(address, message.key, expires_ms, asked, acknowledge, names, span)

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

    def _answer_aside(self, pending: Pending) -> None:
        """In a thread of its own kind; its snapshot and its reply are like any other's."""
        if len(self._aside_waiting) >= _PICTURES + _PICTURES_WAITING:
            self._refuse(pending)
            return
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._aside, self._serve, [pending])
        self._aside_waiting.add(future)
        future.add_done_callback(self._aside_waiting.discard)

    def _serve(self, batch: Sequence[Pending]) -> None:
        now = time.time() * 1000
        pending = [each for each in batch if each.expires_ms > now]
        for each in batch:
            if each.expires_ms <= now:
                each.span.end(error="EXPIRED")
                self._settled.append(each)
        self._watch.metrics.expired.inc(len(batch) - len(pending))
        self._watch.metrics.batch_requests.observe(len(pending))
        replies = self._parts.answers.to([each.asked for each in pending if each.asked])
        for one, reply in zip(pending, replies, strict=True):
            self._send(one, reply)

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
            self._delivered(one, reply, error)

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

    def _delivered(self, one: Pending, reply: Encoded, error: KafkaError | None) -> None:
        """What is too large is found out here, or by the broker, whose topic may take less."""
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
        """Nobody waits for a delivery: a topic that is missing would keep others' replies back."""
        while True:
            try:
                self._parts.producer.now.poll(_BEAT_S)
            except Exception:  # of what is done when one is heard of; others must be heard of too
                logger.exception("a delivery was not understood")

    def _acknowledge(self) -> None:
        """What the broker has, or won't get. In the loop's thread, as Faust wants it."""
        while self._settled:
            self._settled.popleft().acknowledge()


def _names(message: Any, trace: Trace | None) -> dict[str, object]:
    return {
        "partition": message.partition,
        "offset": message.offset,
        **(trace.names() if trace else {}),
    }
