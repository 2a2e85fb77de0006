"""Reports what happened to each record: outcomes, and dead letters with the record as it came."""

import hashlib
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pixtide.schemas.dead_letters import (
    VALUE_MISSING,
    VALUE_URI,
    dead_letter_headers,
    headers_of_ours,
)
from pixtide.schemas.errors import TransientError
from pixtide.schemas.identity import MAX_IMAGE_ID_BYTES
from pixtide.schemas.outcomes import DeadLetterReason, Outcome, OutcomeKind
from pixtide.search.generations import Generation
from pixtide.streams.ingest.work import Work
from pixtide.streams.kafka.records import Headers
from pixtide.streams.kafka.renewed_client import RenewedClient
from pixtide.streams.originals.store import VALUES, ImageStore

#: The largest value kept in the image store. A topic accepts about a MiB, so a larger value came
#: compressed, and a few kilobytes may decompress to any size.
MOST_KEPT = 4 * 2**20

_DELIVER_S = 30.0

_MAX_TEXT = 500

#: A producer reports at once what it is told to drop.
_PURGE_S = 5.0


class Reporter:
    """Produces to `images.indexed` and `images.uploaded.dlq`; `deliver` waits until it is safe."""

    def __init__(
        self,
        producer: RenewedClient[Producer],
        store: ImageStore,
        generation: Generation,
        *,
        outcomes_topic: str,
        dead_letters_topic: str,
    ) -> None:
        self._producer = producer
        self._store = store
        self._generation = generation
        self._outcomes = outcomes_topic
        self._dead_letters = dead_letters_topic
        self._failed: list[tuple[KafkaError, _Outgoing]] = []

    def outcome(self, work: Work, kind: OutcomeKind) -> None:
        """Queue the outcome of one record, in its trace; a retry's outcome names its source."""
        record, source = work.record, work.source
        failure = work.failure if kind is OutcomeKind.DEAD_LETTERED else None
        key = None if record.key is None else record.key[:MAX_IMAGE_ID_BYTES]
        outcome = Outcome(
            image_id=(key or b"").decode(errors="replace"),
            outcome=kind,
            generation=self._generation.name,
            topic=source.topic,
            topic_id=source.topic_id,
            partition=source.partition,
            offset=source.offset,
            at=datetime.now(UTC),
            reason=failure.code if failure else None,
            message=failure.message[:500] if failure else None,
            took_ms=work.took_ms,
        )
        now_ms = int(time.time() * 1000)
        headers: Headers = [work.trace.header()] if work.trace else []
        self._produce(_Outgoing(self._outcomes, key, outcome.to_json(), headers, now_ms))

    def dead_letter(
        self, work: Work, reason: DeadLetterReason, *, without_headers: bool = False
    ) -> None:
        """Queue the record as it came, with its source and the reason in its headers.

        If the topic refuses it as too large, its value goes to the image store, and its own headers
        and key are dropped as far as necessary: a record that came compressed may be larger than
        what a topic accepts. A value larger than `MOST_KEPT`, or one that could not be read, is
        then stored nowhere; the dead letter says so.

        Args:
            without_headers: leave out the record's own headers.
        """
        record, source = work.record, work.source
        original = () if without_headers else record.headers
        headers = dead_letter_headers(source, reason, self._generation.name, original)
        if problem := record.unreadable.get("value"):
            headers.append((VALUE_MISSING, problem.encode(errors="replace")[:_MAX_TEXT]))
        self._produce(
            _Outgoing(self._dead_letters, record.key, record.value, headers, source.timestamp_ms)
        )

    def deliver(self) -> None:
        """Wait until everything queued is acknowledged; refused messages are queued again.

        Raises:
            TransientError: not everything is acknowledged yet; call again.
        """
        while True:
            if left := self._producer.now.flush(_DELIVER_S):
                self._doubt()
                raise TransientError(f"{left} outcomes or dead letters wait for the broker")
            self._producer.worked()
            failed, self._failed = self._failed, []
            if not failed:
                return
            refused = None
            for error, outgoing in failed:
                too_large = error.code() == KafkaError.MSG_SIZE_TOO_LARGE
                if too_large and (smaller := self._smaller(outgoing)) is not None:
                    self._produce(smaller)
                else:
                    refused = error
                    self._produce(outgoing)
            if refused is not None:
                raise TransientError(f"outcomes or dead letters are refused: {refused.str()}")

    def _smaller(self, outgoing: "_Outgoing") -> "_Outgoing | None":
        """A smaller version of a message that was too large; None if nothing can be removed."""
        if outgoing.topic != self._dead_letters:
            return None
        if outgoing.value:
            return self._without_value(outgoing)
        ours = headers_of_ours(outgoing.headers)
        if len(ours) < len(outgoing.headers):
            return replace(outgoing, headers=ours)
        if len(outgoing.key or b"") > MAX_IMAGE_ID_BYTES:
            return replace(outgoing, key=(outgoing.key or b"")[:MAX_IMAGE_ID_BYTES])
        return None

    def _doubt(self) -> None:
        """After failing for long, let a new producer send what this one holds, maybe twice."""
        old = self._producer.now
        if self._producer.failed():
            old.purge()
            old.flush(_PURGE_S)

    def _without_value(self, letter: "_Outgoing") -> "_Outgoing":
        value = letter.value or b""
        if len(value) > MOST_KEPT:
            problem = f"it has {len(value)} bytes; at most {MOST_KEPT} are kept"
            headers = [*letter.headers, (VALUE_MISSING, problem.encode())]
            return replace(letter, value=None, headers=headers)
        uri = self._store.put_raw(f"{VALUES}/{hashlib.sha256(value).hexdigest()}", value)
        headers = [*letter.headers, (VALUE_URI, uri.encode())]
        return replace(letter, value=None, headers=headers)

    def _produce(self, outgoing: "_Outgoing") -> None:
        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                self._failed.append((error, outgoing))

        try:
            self._producer.now.produce(
                outgoing.topic,
                outgoing.value,
                outgoing.key,
                headers=outgoing.headers,  # type: ignore[arg-type]  # values may be None
                timestamp=outgoing.timestamp_ms,
                on_delivery=delivered,
            )
        except KafkaException as error:
            self._failed.append((error.args[0], outgoing))
        except BufferError:  # the client's queue is full until some are delivered
            self._failed.append((KafkaError(KafkaError._QUEUE_FULL), outgoing))


@dataclass(frozen=True)
class _Outgoing:
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
