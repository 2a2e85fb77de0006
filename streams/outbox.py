"""Sends replies; a topic that is missing or forbidden keeps no reply to another one waiting."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

_POLL_S = 1.0


class Outbox:
    """Two producers behind the methods of one.

    A batch waits until its replies are delivered. Replies to topics that none has reached yet go
    through a producer of their own, which nobody waits for: it takes a client seconds to find out
    that there is no such topic.
    """

    def __init__(self, proven: Producer, untried: Producer) -> None:
        self._proven = proven
        self._untried = untried
        self._reached: set[str] = set()
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()
        threading.Thread(target=self._hear, name="untried replies", daemon=True).start()

    def produce(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        partition: int,
        *,
        headers: list[tuple[str, bytes]],
        on_delivery: Callable[[KafkaError | None, Message], Any],
    ) -> None:
        """Hand a reply over; some thread calls `on_delivery` when it is known what became of it.

        Raises:
            BufferError: too many replies wait for the broker.
            KafkaException: the reply can't be sent at all, as where it is too large.
        """

        def heard(error: KafkaError | None, message: Message) -> None:
            with self._lock:
                self._waiting[topic] -= 1
            if error is None:
                self._reached.add(topic)
            elif error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
                self._reached.discard(topic)
            on_delivery(error, message)

        producer = self._proven if topic in self._reached else self._untried
        producer.produce(topic, value, key, partition, headers=headers, on_delivery=heard)  # type: ignore[arg-type]  # headers want str | bytes
        with self._lock:
            self._waiting[topic] += 1

    def poll(self, within_s: float) -> None:
        """Hear what was delivered."""
        self._proven.poll(within_s)

    def flush(self, within_s: float) -> int:
        """Wait for the replies to topics that are known to exist; how many of them are left.

        Topics that they are left for count as untried again, so that they are waited for once.
        """
        left = self._proven.flush(within_s)
        if left:
            with self._lock:
                self._reached -= {topic for topic, count in self._waiting.items() if count}
        return left

    def _hear(self) -> None:
        while True:
            self._untried.poll(_POLL_S)
