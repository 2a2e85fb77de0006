"""Which producer a reply takes: whoever can't be replied to is waited for by nobody."""

import threading
from typing import Any

import pytest
from confluent_kafka import KafkaError

from streams.outbox import Outbox


class Producer:
    """Keeps what it is given until told what became of it."""

    def __init__(self) -> None:
        self.given: list[tuple[str, Any]] = []

    def produce(self, topic: str, *_: object, on_delivery: Any, **__: object) -> None:
        self.given.append((topic, on_delivery))

    def deliver(self, error: KafkaError | None = None) -> None:
        for _, on_delivery in self.given:
            on_delivery(error, None)
        self.given.clear()

    def poll(self, _: float) -> None:
        threading.Event().wait()  # there is nothing to hear

    def flush(self, _: float) -> int:
        return len(self.given)


@pytest.mark.parametrize(
    ("became", "trusted"),
    [
        ([], False),
        ([None], True),
        ([KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)], False),
        ([None, KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)], False),
        ([None, KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)], True),
    ],
)
def test_only_replies_to_topics_that_were_reached_are_waited_for(
    became: list[KafkaError | None], trusted: bool
) -> None:
    proven, untried = Producer(), Producer()
    outbox = Outbox(proven, untried)  # type: ignore[arg-type]
    heard: list[KafkaError | None] = []

    def send(topic: str) -> None:
        outbox.produce(
            topic, b"{}", b"k", -1, headers=[], on_delivery=lambda error, _: heard.append(error)
        )

    for error in became:
        send("a")
        (proven if proven.given else untried).deliver(error)
    assert heard == became
    send("a")
    send("another")
    assert [topic for topic, _ in untried.given] == (["another"] if trusted else ["a", "another"])
    assert outbox.flush(1) == (1 if trusted else 0)


def test_a_topic_that_is_waited_for_in_vain_is_waited_for_once() -> None:
    proven, untried = Producer(), Producer()
    outbox = Outbox(proven, untried)  # type: ignore[arg-type]

    def send(topic: str) -> None:
        outbox.produce(topic, b"{}", b"k", -1, headers=[], on_delivery=lambda *_: None)

    for topic in ("stuck", "well"):
        send(topic)
    untried.deliver()
    send("stuck")
    assert outbox.flush(1) == 1
    send("stuck")
    send("well")
    assert [topic for topic, _ in untried.given] == ["stuck"]
    assert [topic for topic, _ in proven.given] == ["stuck", "well"]
