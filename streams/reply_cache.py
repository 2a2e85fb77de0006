"""Remembers replies for as long as the index they were found in stays as it is."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from schemas.queries import SearchReply, SearchRequest
from search.answer import Snapshot


class Encoded(NamedTuple):
    """A reply as it is sent: its error's code, or OK, and its JSON."""

    code: str
    value: bytes

    @classmethod
    def of(cls, reply: SearchReply) -> "Encoded":
        """The reply in JSON."""
        return cls(reply.error.code if reply.error else "OK", reply.to_json())


class ReplyCache:
    """Replies by request, of one state of one generation's index; newest first to stay.

    Where an index can't name its state, nothing is remembered. Safe to share between threads.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._state: tuple[str, ...] = ()
        self._replies: OrderedDict[SearchRequest, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def answer(
        self,
        requests: Sequence[SearchRequest],
        snapshot: Snapshot,
        ask: Callable[[Sequence[SearchRequest]], Sequence[SearchReply]],
    ) -> list[Encoded]:
        """A reply for each request, remembered or asked for; equal ones are asked for once.

        The state is read before the index is searched: what is written meanwhile may be in a
        reply that is remembered for too short, never for too long.

        Raises:
            TransientError: the index can't be reached.
        """
        version = snapshot.index.data_version() if self._max_bytes else None
        state = (snapshot.generation.name, str(snapshot.generation.created_at), version or "")
        found = {} if version is None else self._recall(requests, state)
        new = [request for request in dict.fromkeys(requests) if request not in found]
        replies = dict(zip(new, ask(new), strict=True)) if new else {}
        found |= {request: Encoded.of(reply) for request, reply in replies.items()}
        if version is not None:
            self._remember(replies, state)
        return [found[request] for request in requests]

    def _recall(
        self, requests: Sequence[SearchRequest], state: tuple[str, ...]
    ) -> dict[SearchRequest, Encoded]:
        with self._lock:
            if state != self._state:
                self._replies.clear()
                self._bytes, self._state = 0, state
            found = {}
            for request in requests:
                if (value := self._replies.get(request)) is not None:
                    self._replies.move_to_end(request)
                    found[request] = Encoded("OK", value)
            return found

    def _remember(self, replies: dict[SearchRequest, SearchReply], state: tuple[str, ...]) -> None:
        with self._lock:
            if state != self._state:
                return
            for request, reply in replies.items():
                if reply.error is None and request not in self._replies:
                    # what took its time then takes none now
                    value = reply.model_copy(update={"took_ms": {"cached": 0.0}}).to_json()
                    self._replies[request] = value
                    self._bytes += len(value)
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._replies.popitem(last=False)[1])
