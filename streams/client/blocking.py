"""A blocking client of the search service.

with SearchClient("localhost:9092") as client:
    for result in client.search(SearchRequest(text="a cat")).results or ():
        print(result.similarity, result.image_id)
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from pixtide.schemas.errors import TransientError
from pixtide.schemas.queries import SearchReply, SearchRequest
from pixtide.schemas.reply_address import CLIENT_TIMEOUT_S
from pixtide.schemas.topics import REPLIES, REQUESTS
from pixtide.streams.client.channel import Addresses, Replies, pause_s, reply_of, worth_repeating
from pixtide.streams.kafka.connection import KafkaConnection, connection_to

#: How many requests `search_many` keeps in progress.
WINDOW = 64
_WAIT_S = 0.02


class SearchClient:
    """Searches over Kafka and waits for the replies. Use one client per thread."""

    def __init__(
        self,
        kafka: str | KafkaConnection,
        *,
        request_topic: str = REQUESTS,
        reply_topic: str = REPLIES,
        timeout_s: float = CLIENT_TIMEOUT_S,
    ) -> None:
        """Connect, and find the end of a reply partition before anything is sent.

        Raises:
            TransientError: the broker can't be reached.
            UsageError: a topic is missing, or Kafka refuses the login or the access.
        """
        self._timeout_s = timeout_s
        self._waiting: set[bytes] = set()
        self._replies: dict[bytes, SearchReply] = {}
        self._wire = Replies(Addresses(connection_to(kafka), request_topic, reply_topic))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    def search(self, request: SearchRequest) -> SearchReply:
        """Search, and search again while the error is retryable and there is time left.

        A request that can't be served gets a reply with its `error` set.

        Raises:
            TransientError: no reply came in time.
        """
        deadline = time.monotonic() + self._timeout_s
        for attempt in range(1000):
            reply = self._await(*self._ask(request, deadline - time.monotonic()))
            pause = pause_s(attempt)
            if not worth_repeating(reply) or time.monotonic() + pause > deadline:
                break
            time.sleep(pause)
        return reply

    def search_many(
        self, requests: Iterable[SearchRequest], *, window: int = WINDOW
    ) -> Iterator[SearchReply]:
        """Make many searches once each, several at a time; replies come in the requests' order.

        Raises:
            TransientError: a reply did not come in time.
        """
        under_way: deque[tuple[bytes, float]] = deque()
        for request in requests:
            under_way.append(self._ask(request, self._timeout_s))
            if len(under_way) >= window:
                yield self._await(*under_way.popleft())
        while under_way:
            yield self._await(*under_way.popleft())

    def _ask(self, request: SearchRequest, timeout_s: float) -> tuple[bytes, float]:
        correlation_id = self._wire.ask(request, timeout_s)
        self._waiting.add(correlation_id)
        return correlation_id, time.monotonic() + timeout_s

    def _await(self, correlation_id: bytes, deadline: float) -> SearchReply:
        while correlation_id not in self._replies:
            if time.monotonic() > deadline:
                self._waiting.discard(correlation_id)
                self._wire.answered(in_time=False)
                raise TransientError(
                    f"no reply within {self._timeout_s:g} s: is a query consumer running?"
                )
            for heard, value in self._wire.heard(_WAIT_S):
                # else it is another client's, late, or a repeated one
                if heard in self._waiting and (reply := reply_of(value)) is not None:
                    self._waiting.discard(heard)
                    self._replies[heard] = reply
        self._wire.answered(in_time=True)
        return self._replies.pop(correlation_id)
