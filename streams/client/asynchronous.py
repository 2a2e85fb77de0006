"""The search client for asyncio: many searches at once, each awaited and cancellable.

async with AsyncSearchClient("localhost:9092") as client:
    reply = await client.search(SearchRequest(text="a cat"))
"""

import asyncio
import logging
import threading
from types import TracebackType
from typing import Self

from pixtide.schemas.errors import TransientError
from pixtide.schemas.queries import SearchReply, SearchRequest
from pixtide.schemas.reply_address import CLIENT_TIMEOUT_S
from pixtide.schemas.topics import REPLIES, REQUESTS
from pixtide.streams.client.channel import Addresses, Replies, pause_s, reply_of, worth_repeating
from pixtide.streams.kafka.connection import KafkaConnection, connection_to

logger = logging.getLogger(__name__)

_WAIT_S = 0.05


class AsyncSearchClient:
    """Searches over Kafka from one event loop; its own thread receives the replies."""

    def __init__(
        self,
        kafka: str | KafkaConnection,
        *,
        request_topic: str = REQUESTS,
        reply_topic: str = REPLIES,
        timeout_s: float = CLIENT_TIMEOUT_S,
        rests: bool = False,
    ) -> None:
        """Create a client; entering it connects.

        Args:
            rests: ask the broker for nothing while no search is running. The embedded broker
                answers an empty fetch at once, so that an idle client takes a whole core. The first
                search after a pause asks for the end of its reply partition first.
        """
        self._addresses = Addresses(connection_to(kafka), request_topic, reply_topic)
        self._timeout_s = timeout_s
        self._rests = rests
        self._under_way = 0
        self._awake = threading.Event()
        self._turn = threading.Lock()  # held while it pauses or resumes
        self._waiting: dict[bytes, asyncio.Future[SearchReply]] = {}
        self._unanswered = threading.Event()
        self._closing = threading.Event()

    async def __aenter__(self) -> Self:
        """Connect, and find the end of a reply partition before anything is sent.

        Raises:
            TransientError: the broker can't be reached.
            UsageError: a topic is missing, or Kafka refuses the login or the access.
        """
        self._loop = asyncio.get_running_loop()
        self._wire = await asyncio.to_thread(Replies, self._addresses)
        self._awake.set()
        self._listener = threading.Thread(target=self._listen, name="replies", daemon=True)
        self._listener.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        await asyncio.to_thread(self._listener.join)
        await asyncio.to_thread(self._wire.close)

    async def search(self, request: SearchRequest) -> SearchReply:
        """Search, and search again while the error is retryable and there is time left.

        A request that can't be served gets a reply with its `error` set. Cancelling stops the wait;
        the service may still do the search.

        Raises:
            TransientError: no reply came in time.
        """
        deadline = self._loop.time() + self._timeout_s
        self._under_way += 1
        try:
            if self._rests:
                await asyncio.to_thread(self._wake)
            for attempt in range(1000):
                reply = await self._ask(request, deadline - self._loop.time())
                pause = pause_s(attempt)
                if not worth_repeating(reply) or self._loop.time() + pause > deadline:
                    break
                await asyncio.sleep(pause)
            return reply
        finally:
            self._under_way -= 1

    async def _ask(self, request: SearchRequest, timeout_s: float) -> SearchReply:
        correlation_id = self._wire.ask(request, timeout_s)
        future = self._loop.create_future()
        self._waiting[correlation_id] = future
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError as error:
            self._unanswered.set()
            raise TransientError(
                f"no reply within {self._timeout_s:g} s: is a query consumer running?"
            ) from error
        finally:
            self._waiting.pop(correlation_id, None)

    def _listen(self) -> None:
        while not self._closing.is_set():
            try:
                self._heed_unanswered()
                if self._rests and self._rest():
                    self._awake.wait(_WAIT_S)
                else:
                    self._hear()
            except Exception:  # one record or one poll; others still get theirs
                logger.exception("the reply topic could not be read")
                self._closing.wait(_WAIT_S)

    def _heed_unanswered(self) -> None:
        """A search got no reply. Runs in this thread, since connecting again may take long."""
        if self._unanswered.is_set():
            self._unanswered.clear()
            with self._turn:
                self._wire.answered(in_time=False)
                if not self._awake.is_set():
                    self._wire.rest()

    def _hear(self) -> None:
        for correlation_id, value in self._wire.heard(_WAIT_S):
            # else it is another client's, late, or a repeated one
            if correlation_id in self._waiting and (reply := reply_of(value)) is not None:
                self._wire.answered(in_time=True)
                self._loop.call_soon_threadsafe(self._arrived, correlation_id, reply)

    def _rest(self) -> bool:
        """Pause if no search is running; returns whether it is paused."""
        with self._turn:
            if self._awake.is_set() and not self._under_way:
                self._wire.rest()
                self._awake.clear()
            return not self._awake.is_set()

    def _wake(self) -> None:
        with self._turn:
            if not self._awake.is_set():
                try:
                    self._wire.listen()
                except TransientError:
                    self._unanswered.set()
                    raise
                self._awake.set()

    def _arrived(self, correlation_id: bytes, reply: SearchReply) -> None:
        future = self._waiting.get(correlation_id)
        if future is not None and not future.done():
            future.set_result(reply)
