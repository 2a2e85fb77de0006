"""Caches replies for as long as the index that they came from doesn't change."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pixtide.schemas.queries import SearchReply, SearchRequest
from pixtide.search.answering.answer import Snapshot

#: Bytes of a cached reply besides its JSON: its key, and its places in memory.
_EACH = 256


class Encoded(NamedTuple):
    """A reply as it is sent: its error code or OK, and its JSON."""

    code: str
    value: bytes

    @classmethod
    def of(cls, reply: SearchReply) -> "Encoded":
        """Encode the reply as JSON."""
        return cls(reply.error.code if reply.error else "OK", reply.to_json())


class ReplyCache:
    """Replies by request, for one state of one generation's index.

    The least recently used are dropped first.

    A request is identified by its digest, since it may be a thousand times as large as its reply.
    If an index can't name its state, nothing is cached. Safe to share between threads.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._state: tuple[str, ...] = ()
        self._replies: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def answer(
        self,
        requests: Sequence[SearchRequest],
        snapshot: Snapshot,
        ask: Callable[[Sequence[SearchRequest]], Sequence[SearchReply]],
    ) -> list[Encoded]:
        """A reply for each request, from the cache or from `ask`; equal requests are asked once.

        The state is read before the index is searched. So a reply may contain rows written
        meanwhile; it is then cached for too short, never for too long.

        Raises:
            TransientError: the index can't be reached.
        """
        version = snapshot.index.data_version() if self._max_bytes else None
        state = (snapshot.generation.name, str(snapshot.generation.created_at), version or "")
        keys = [_digest(request) for request in requests]
        found = {} if version is None else self._recall(keys, state)
        new = {key: each for key, each in zip(keys, requests, strict=True) if key not in found}
        replies = dict(zip(new, ask(list(new.values())), strict=True)) if new else {}
        found |= {key: Encoded.of(reply) for key, reply in replies.items()}
        if version is not None:
            self._remember(replies, state)
        return [found[key] for key in keys]

    def _recall(self, keys: Sequence[bytes], state: tuple[str, ...]) -> dict[bytes, Encoded]:
        with self._lock:
            if state != self._state:
                self._replies.clear()
                self._bytes, self._state = 0, state
            found = {}
            for key in keys:
                if (value := self._replies.get(key)) is not None:
                    self._replies.move_to_end(key)
                    found[key] = Encoded("OK", value)
            return found

    def _remember(self, replies: dict[bytes, SearchReply], state: tuple[str, ...]) -> None:
        with self._lock:
            if state != self._state:
                return
            for key, reply in replies.items():
                if reply.error is None and key not in self._replies:
                    # a cached reply takes no time for these steps
                    value = reply.model_copy(update={"took_ms": {"cached": 0.0}}).to_json()
                    self._replies[key] = value
                    self._bytes += len(value) + _EACH
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._replies.popitem(last=False)[1]) + _EACH


def _digest(request: SearchRequest) -> bytes:
    return hashlib.sha256(request.to_json()).digest()
