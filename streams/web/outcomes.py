"""The outcomes of events as they come, to everybody who listens: server-sent events.

One thread follows `images.indexed` from its end on and never waits for a listener: one that
falls behind is let go, and comes again.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable

from confluent_kafka import Consumer, TopicPartition
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pixtide.schemas.base import explain
from pixtide.schemas.errors import TransientError, UsageError
from pixtide.schemas.outcomes import Outcome, OutcomeKind
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.records import Record
from pixtide.streams.kafka.topic_reader import taken
from pixtide.streams.process.signals import VitalThread
from pixtide.streams.web.lanes import busy
from pixtide.streams.web.problems import shortened
from pixtide.streams.web.rates import client_of

logger = logging.getLogger(__name__)

#: In all, and of one client: a browser has one for each of its tabs.
_MOST_LISTENERS = 256
_MOST_OF_ONE = 16
_BACKLOG = 2000
#: Proxies close what is silent for long; this comment is no event.
_HEARTBEAT_S = 15.0
_LOOK_S = 0.25
_READ_S = 0.05
_STALLED_S = 10.0
_RETRY_S = 2.0
_STALE = (OutcomeKind.REPLACED, OutcomeKind.DELETED, OutcomeKind.DEAD_LETTERED)


class Outcomes:
    """Hears the outcomes, and tells them on.

    `changed` is told the id of each picture that isn't any more what it was, in the thread that
    hears.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        changed: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._changed = changed
        self._listeners: dict[asyncio.Queue[str | None], str] = {}
        self._ending = threading.Event()
        self._thread = VitalThread(self._follow, "outcomes")

    def routes(self) -> list[Route]:
        """What this serves."""
        return [Route("/api/outcomes", self._stream, methods=["GET"])]

    def start(self) -> None:
        """Begin to hear, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def end_streams(self) -> None:
        """Let all listeners go: the server waits for its answers to end."""
        for listener in list(self._listeners):
            self._let_go(listener)

    async def close(self) -> None:
        """Stop hearing."""
        self._ending.set()
        await asyncio.to_thread(self._thread.join, _STALLED_S)

    async def _stream(self, request: Request) -> Response:
        client = client_of(request)
        mine = sum(other == client for other in self._listeners.values())
        if len(self._listeners) >= _MOST_LISTENERS or mine >= _MOST_OF_ONE:
            raise busy("too many listen already", retry_after_s=10)
        listener: asyncio.Queue[str | None] = asyncio.Queue(_BACKLOG + 1)
        self._listeners[listener] = client
        return _Events(
            self._events(listener),
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
            media_type="text/event-stream",
            over=lambda: self._listeners.pop(listener, None),
        )

    async def _events(self, mine: asyncio.Queue[str | None]) -> AsyncIterator[str]:
        yield "retry: 2000\n\n"
        while True:
            try:
                outcome = await asyncio.wait_for(mine.get(), _HEARTBEAT_S)
            except TimeoutError:
                yield ": nothing new\n\n"
                continue
            if outcome is None:
                return
            yield outcome

    def _tell(self, outcomes: list[str]) -> None:
        for listener in list(self._listeners):
            for outcome in outcomes:
                if listener.qsize() >= _BACKLOG:
                    self._let_go(listener)
                    break
                listener.put_nowait(outcome)

    def _let_go(self, listener: asyncio.Queue[str | None]) -> None:
        """End its stream. It counts until then: what isn't read holds its connection."""
        if not listener.full():
            listener.put_nowait(None)

    def _follow(self) -> None:
        while not self._ending.is_set():
            try:
                self._follow_from_the_end()
            except (TransientError, UsageError) as error:
                logger.warning("outcomes are not heard: %s", error)
                self._ending.wait(_RETRY_S)
            except Exception:  # whatever it is, the page goes on to listen
                logger.exception("outcomes are not heard")
                self._ending.wait(_RETRY_S)

    def _follow_from_the_end(self) -> None:
        """Look for new ends, and read up to them.

        A fetch that waits for news is no better here: the embedded broker answers an empty one
        at once, so that an idle page would cost a whole core.
        """
        client = kafka_clients.admin(self._connection)
        numbers = range(kafka_topics.partitions_of(client, self._topic))
        read = kafka_offsets.ends(client, self._topic, numbers)
        consumer = kafka_clients.tail_consumer(self._connection, tells_ends=True)
        with contextlib.closing(consumer):
            while not self._ending.wait(_LOOK_S):
                ends = kafka_offsets.ends(client, self._topic, numbers)
                if new := {number: end for number, end in ends.items() if end > read[number]}:
                    self._read(consumer, read, new)
                read = ends

    def _read(self, consumer: Consumer, start: dict[int, int], ends: dict[int, int]) -> None:
        consumer.assign([TopicPartition(self._topic, number, start[number]) for number in ends])
        left, heard = dict(ends), time.monotonic()
        while left and not self._ending.is_set():
            if time.monotonic() - heard > _STALLED_S:
                raise TransientError("the broker says that there are outcomes and gives none")
            heard_now: list[str] = []
            for each in taken(consumer, self._connection, 500, _READ_S):
                reached = each.offset
                if isinstance(each, Record):
                    heard, reached = time.monotonic(), each.offset + 1
                    heard_now += self._hear(each.value or b"")
                elif not each.is_end:
                    raise TransientError(each.error.str())
                # an end may lie behind a transaction's marker, say, that no outcome comes after
                if reached >= left.get(each.partition, 0):
                    left.pop(each.partition, None)
            if heard_now:
                self._loop.call_soon_threadsafe(self._tell, heard_now)
        consumer.unassign()

    def _hear(self, value: bytes) -> list[str]:
        """The event that tells of it; none where it can't be understood."""
        try:
            outcome = Outcome.from_json(value)
        except ValidationError as error:  # of a later version, say: nobody here could show it
            logger.warning("an outcome is not understood: %s", shortened(explain(error)))
            return []
        if outcome.outcome in _STALE:
            self._changed(outcome.image_id)
        return [f"event: outcome\ndata: {outcome.to_json().decode()}\n\n"]


class _Events(StreamingResponse):
    """A stream of events; `over` is called when it has ended, however that was."""

    def __init__(
        self,
        events: AsyncIterator[str],
        *,
        headers: dict[str, str],
        media_type: str,
        over: Callable[[], object],
    ) -> None:
        super().__init__(events, headers=headers, media_type=media_type)
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._over()
