"""A load of search requests over Kafka, and what came back of it."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from pixtide.schemas.reply_address import CORRELATION_ID, REPLY_PARTITION, REPLY_TOPIC

_POLL_S = 0.001


@dataclass
class Measured:
    """Latencies in ms from when each request was due, and how long it all took."""

    latencies_ms: list[float] = field(default_factory=list)
    errors: int = 0
    lost: int = 0
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Good replies a second."""
        return len(self.latencies_ms) / self.seconds

    def percentile(self, share: float) -> float:
        """That share of the requests was answered within so many ms."""
        return float(np.percentile(self.latencies_ms, share)) if self.latencies_ms else float("nan")


class Load:
    """One client process with one reply partition; it looks into each reply for an error."""

    def __init__(self, bootstrap: str, requests: str, replies: str) -> None:
        self._requests, self._replies = requests, replies
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "linger.ms": 1, "partitioner": "random"}
        )
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "benchmark",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 5,
            }
        )
        where = TopicPartition(replies, 0)
        _, end = self._consumer.get_watermark_offsets(where, timeout=20)
        self._consumer.assign([TopicPartition(replies, 0, end)])
        self._numbers = count()
        self._due: dict[bytes, float] = {}

    def closed(self, texts: Sequence[str], *, seconds: float, window: int) -> Measured:
        """So many requests under way at any time, each followed by the next when answered."""
        measured, asked = Measured(), 0
        started = time.perf_counter()
        while (now := time.perf_counter()) < started + seconds:
            while len(self._due) < window:
                self._ask(texts[asked % len(texts)], now)
                asked += 1
            self._collect(measured)
        measured.seconds = time.perf_counter() - started
        self._drain(Measured())
        return measured

    def once(self, texts: Sequence[str], *, window: int) -> None:
        """Ask for each, so many at any time, and wait for the replies."""
        for start in range(0, len(texts), window):
            for text in texts[start : start + window]:
                self._ask(text, time.perf_counter())
            self._drain(Measured())

    def open(self, texts: Sequence[str], *, seconds: float, rate: float) -> Measured:
        """So many requests a second, whatever becomes of them; late ones count from their due."""
        measured, asked = Measured(), 0
        started = time.perf_counter()
        while (now := time.perf_counter()) < started + seconds:
            while started + asked / rate <= now:
                self._ask(texts[asked % len(texts)], started + asked / rate)
                asked += 1
            self._collect(measured)
        measured.seconds = time.perf_counter() - started
        self._drain(measured)
        return measured

    def close(self) -> None:
        """Let the connections go."""
        self._consumer.close()

    def _ask(self, text: str, due: float) -> None:
        correlation_id = next(self._numbers).to_bytes(8, "big")
        self._due[correlation_id] = due
        headers = [
            (REPLY_TOPIC, self._replies.encode()),
            (REPLY_PARTITION, b"0"),
            (CORRELATION_ID, correlation_id),
        ]
        self._producer.produce(self._requests, json.dumps({"text": text}), headers=headers)  # type: ignore[arg-type]

    def _collect(self, measured: Measured) -> None:
        self._producer.poll(0)
        for message in self._consumer.consume(1000, timeout=_POLL_S):
            now = time.perf_counter()
            found = dict(message.headers() or ()).get(CORRELATION_ID)
            due = self._due.pop(found, None) if isinstance(found, bytes) else None
            if due is None:
                continue
            if b'"error"' in bytes(message.value() or b""):
                measured.errors += 1
            else:
                measured.latencies_ms.append((now - due) * 1000)

    def _drain(self, measured: Measured) -> None:
        deadline = time.perf_counter() + 10
        while self._due and time.perf_counter() < deadline:
            self._collect(measured)
        measured.lost += len(self._due)
        self._due.clear()
