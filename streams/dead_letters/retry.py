"""Retries of dead letters: planned first, then sent to the retry topic."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pixtide.schemas.dead_letters import retry_headers
from pixtide.schemas.errors import TransientError
from pixtide.streams.dead_letters.letters import DeadLetter, DeadLetters, LetterState, letter_of
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.records import Record
from pixtide.streams.kafka.topic_reader import records_of

_DELIVER_S = 30.0
#: Dead letters sent before waiting for them: bounds the memory for their values.
_AT_ONCE = 50


@dataclass(frozen=True)
class RetryPlan:
    """What to send: one dead letter for each record that waits. `left_out` counts the others."""

    letters: tuple[DeadLetter, ...]
    left_out: dict[LetterState, int]


@dataclass(frozen=True)
class RetryResult:
    """What was sent and acknowledged, and what could not be sent, with the reason."""

    sent: tuple[DeadLetter, ...]
    refused: tuple[tuple[DeadLetter, str], ...]


def plan_retry(letters: Iterable[DeadLetter]) -> RetryPlan:
    """Which of these dead letters are worth trying again.

    Every generation reads each retry. So if several generations wrote dead letters about one
    record, one retry is enough.
    """
    waiting: dict[object, DeadLetter] = {}
    left_out: Counter[LetterState] = Counter()
    for letter in letters:
        if letter.state is LetterState.WAITING:
            waiting[letter.source] = letter
        else:
            left_out[letter.state] += 1
    return RetryPlan(tuple(waiting.values()), dict(left_out))


class Retrier:
    """Sends dead letters to the retry topic, each to the partition of its source."""

    def __init__(
        self,
        letters: DeadLetters,
        producer: Producer,
        *,
        connection: KafkaConnection,
        dead_letters_topic: str,
        retry_topic: str,
    ) -> None:
        self._letters = letters
        self._producer = producer
        self._connection = connection
        self._dead_letters = dead_letters_topic
        self._retry = retry_topic
        self._sent: list[DeadLetter] = []
        self._refused: list[tuple[DeadLetter, str]] = []

    def send(self, plan: RetryPlan) -> RetryResult:
        """Send the plan, and wait until everything is acknowledged.

        The outcome of each appears on `images.indexed`, under its source.

        Raises:
            UsageError: a topic is missing.
            TransientError: Kafka or the image store can't be reached; what was sent may be sent
                again, which changes nothing.
        """
        self._sent, self._refused = [], []
        wanted = {letter.place: letter for letter in plan.letters}
        for record in records_of(self._connection, self._dead_letters):
            letter = wanted.pop(letter_of(record).place, None)
            if letter is not None:
                self._send(record, letter)
                if len(self._producer) >= _AT_ONCE:
                    self._deliver()
            if not wanted:
                break
        self._deliver()
        self._refused += [(letter, "it is kept no longer") for letter in wanted.values()]
        return RetryResult(tuple(self._sent), tuple(self._refused))

    def _send(self, record: Record, letter: DeadLetter) -> None:
        source = letter.source
        content = self._letters.content_of(record, letter)
        if source is None or content.value_missing:
            self._refused.append((letter, content.value_missing or "it names no source"))
            return

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self._sent.append(letter)
            else:
                self._refused.append((letter, error.str()))

        try:
            self._producer.produce(
                self._retry,
                content.value,
                content.key,
                source.partition,
                headers=retry_headers(source, record.headers),  # type: ignore[arg-type]  # None too
                timestamp=source.timestamp_ms,
                on_delivery=delivered,
            )
        except KafkaException as error:  # too large for this client
            self._refused.append((letter, error.args[0].str()))

    def _deliver(self) -> None:
        if left := self._producer.flush(_DELIVER_S):
            raise TransientError(f"{left} retries are not acknowledged")
