"""Dead letters: listed, shown, and with what has happened to each since."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from pixtide.schemas.codec import decode_event
from pixtide.schemas.dead_letters import (
    EXCEPTION,
    GENERATION,
    MESSAGE,
    REASON,
    STAGE,
    VALUE_MISSING,
    VALUE_URI,
    SourceRecord,
    original_headers,
)
from pixtide.schemas.errors import PoisonError, UsageError
from pixtide.schemas.events import ImageEvent, ImageUploaded, InlinePicture
from pixtide.schemas.identity import Version
from pixtide.search.generations import Generation
from pixtide.search.port import CollectionGoneError, GenerationCatalog, RowState, StoredImage
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.records import Headers, Record
from pixtide.streams.kafka.topic_reader import records_at, records_of
from pixtide.streams.originals.store import VALUES, ImageStore

_ROWS_AT_ONCE = 500
#: More than Kafka accepts in one record; values in the store came from there.
_MOST_BYTES = 2**31
_SHOWN = 60


class LetterState(StrEnum):
    """What has happened to a dead letter since."""

    WAITING = "waiting"
    """Its record is still not indexed; it may be tried again."""
    HEALED = "healed"
    """It was tried again, and its record is indexed."""
    SUPERSEDED = "superseded"
    """A newer record of its picture has been indexed, deleted or dead-lettered since."""
    ORPHANED = "orphaned"
    """Its generation is gone, or it comes from no record of that generation's log."""


@dataclass(frozen=True)
class DeadLetter:
    """One dead letter without its value. `place` is its position: `partition@offset`.

    `arrived_ms` is in epoch milliseconds; `size` is that of its value, in bytes. `code` and the
    other reasons are empty if some other program wrote it.
    """

    place: str
    arrived_ms: int
    image_id: str
    size: int
    code: str
    stage: str
    exception: str
    message: str
    generation: str
    source: SourceRecord | None
    state: LetterState = LetterState.WAITING


@dataclass(frozen=True)
class Selection:
    """A selection of dead letters by codes and by image ids; an empty one means all."""

    codes: frozenset[str] = frozenset()
    image_ids: frozenset[str] = frozenset()

    def takes(self, letter: DeadLetter) -> bool:
        """Whether that dead letter is selected."""
        return (not self.codes or letter.code in self.codes) and (
            not self.image_ids or letter.image_id in self.image_ids
        )


EVERY_LETTER = Selection()


@dataclass(frozen=True)
class CodeGroup:
    """The dead letters of one code: how many are in each state, and the latest few that wait."""

    code: str
    counts: dict[LetterState, int]
    examples: tuple[DeadLetter, ...]


@dataclass(frozen=True)
class LetterContent:
    """A dead letter with its content.

    `value` is None for a delete, and if it isn't available: then `value_missing` says why. `event`
    is what the record says, or None if it is invalid: then `event_error` says why.
    """

    letter: DeadLetter
    key: bytes | None
    headers: Headers
    value: bytes | None = field(repr=False)
    value_missing: str = ""
    event: ImageEvent | None = None
    event_error: str = ""


class DeadLetters:
    """The dead letters of one topic, together with the generations that wrote them."""

    def __init__(
        self,
        *,
        connection: KafkaConnection,
        topic: str,
        catalog: GenerationCatalog,
        store: ImageStore,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._catalog = catalog
        self._store = store

    def close(self) -> None:
        """Close the connections."""
        self._catalog.close()

    def letters(self, selection: Selection = EVERY_LETTER) -> list[DeadLetter]:
        """The selected dead letters, with their states, in the order of their arrival.

        If one generation has written several about one record, only the latest.

        Raises:
            UsageError: there is no such topic.
            TransientError: Kafka or the index can't be reached.
        """
        latest: dict[object, DeadLetter] = {}
        for record in records_of(self._connection, self._topic):
            letter = letter_of(record)
            if selection.takes(letter):
                about = (letter.generation, letter.source) if letter.source else letter.place
                latest.pop(about, None)
                latest[about] = letter
        return sorted(self._with_states(latest.values()), key=lambda letter: letter.arrived_ms)

    def find(self, which: str) -> LetterContent:
        """The dead letter at `partition@offset`, or else the latest one of that image id.

        Raises:
            UsageError: there is none.
            TransientError: as `letters`.
        """
        if re.fullmatch(r"\d+@\d+", which):
            found = self.record_at(which)
        else:
            ours = (r for r in records_of(self._connection, self._topic) if _text(r.key) == which)
            latest = max(ours, key=lambda record: record.timestamp_ms, default=None)
            if latest is None:
                raise UsageError(f"no dead letter of {which}")
            found = latest
        [letter] = self._with_states([letter_of(found)])
        return self.content_of(found, letter)

    def record_at(self, place: str) -> Record:
        """The record at `partition@offset`; reads only that one.

        Raises:
            UsageError: there is none.
            TransientError: Kafka can't be reached.
        """
        partition, offset = _coordinates(place)
        for record in records_at(self._connection, self._topic, partition, offset):
            if record.offset == offset:
                return record
        raise UsageError(f"no dead letter at {place}")

    def content_of(
        self, record: Record, letter: DeadLetter, most_bytes: int = _MOST_BYTES
    ) -> LetterContent:
        """The content of a dead letter; a value in the image store is fetched from there.

        One of more than `most_bytes` counts as missing.

        Raises:
            TransientError: the store can't be reached.
        """
        headers = original_headers(record.headers)
        content = LetterContent(letter, record.key, headers, record.value)
        try:
            content = replace(content, value=self._value(record, most_bytes))
            event = decode_event(
                record.key,
                content.value,
                headers,
                letter.source.timestamp_ms if letter.source else record.timestamp_ms,
            )
        except _ValueMissingError as error:
            return replace(content, value_missing=str(error))
        except PoisonError as error:
            return replace(content, event_error=str(error))
        return replace(content, event=event)

    def picture_of(self, content: LetterContent, most_bytes: int = _MOST_BYTES) -> bytes | None:
        """The picture if the dead letter contains it or the image store has it; else None.

        Raises:
            PoisonError, TransientError: as `ImageStore.get`.
        """
        if not isinstance(content.event, ImageUploaded):
            return None
        picture = content.event.picture
        if isinstance(picture, InlinePicture):
            return picture.data
        return self._store.get(picture.uri, most_bytes) if self._store.owns(picture.uri) else None

    def _value(self, record: Record, most_bytes: int) -> bytes | None:
        if problem := _header(record, VALUE_MISSING):
            raise _ValueMissingError(f"its value was not kept: {problem}")
        uri = _header(record, VALUE_URI)
        if not uri:
            return record.value
        # the store's URL may have changed; the files in it have not
        name = uri.rpartition("/")[2]
        try:
            value = self._store.get_raw(f"{VALUES}/{name}", most_bytes)
        except PoisonError as error:
            raise _ValueMissingError(f"its value can't be read from {uri}: {error}") from error
        if value is None:
            raise _ValueMissingError(f"its value is no longer at {uri}")
        return value

    def _with_states(self, letters: Iterable[DeadLetter]) -> Iterator[DeadLetter]:
        by_generation: dict[str, list[DeadLetter]] = {}
        for letter in letters:
            by_generation.setdefault(letter.generation, []).append(letter)
        for name, ours in by_generation.items():
            generation = self._catalog.get(name) if name else None
            index = None
            with contextlib.suppress(CollectionGoneError):  # retired: its record still exists
                index = self._catalog.open(generation) if generation else None
            if generation is None or index is None:
                yield from (replace(letter, state=LetterState.ORPHANED) for letter in ours)
                continue
            for start in range(0, len(ours), _ROWS_AT_ONCE):
                some = ours[start : start + _ROWS_AT_ONCE]
                rows = index.get({letter.image_id for letter in some})
                for letter in some:
                    state = state_of(letter, generation, rows.get(letter.image_id))
                    yield replace(letter, state=state)


class _ValueMissingError(Exception):
    pass


def by_code(letters: Sequence[DeadLetter], examples: int = 3) -> list[CodeGroup]:
    """The dead letters grouped by code; the code with most of them comes first."""
    groups: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        groups.setdefault(letter.code, []).append(letter)
    return [
        CodeGroup(
            code,
            counts=dict(Counter(letter.state for letter in ours)),
            examples=tuple(
                [letter for letter in reversed(ours) if letter.state is LetterState.WAITING][
                    :examples
                ]
            ),
        )
        for code, ours in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]


def state_of(letter: DeadLetter, generation: Generation, row: StoredImage | None) -> LetterState:
    """The state of a dead letter, from its picture's row in its generation."""
    source, log = letter.source, generation.log
    if source is None or (source.topic, source.topic_id) != (log.topic, log.topic_id):
        return LetterState.ORPHANED
    version = Version(log.epoch, source.partition, source.offset)
    if row is None or row.version.partition != version.partition:
        return LetterState.WAITING
    if row.version.newer_than(version):
        return LetterState.SUPERSEDED
    if row.version == version and row.state is not RowState.DEAD_LETTERED:
        return LetterState.HEALED
    return LetterState.WAITING


def letter_of(record: Record) -> DeadLetter:
    """Read a record of the dead-letter topic; its state isn't known yet."""
    try:
        source = SourceRecord.from_headers(record.headers)
    except PoisonError:  # another program's, or its headers were cut
        source = None
    return DeadLetter(
        place=_place(record),
        arrived_ms=record.timestamp_ms,
        image_id=_text(record.key),
        size=len(record.value or b""),
        code=_header(record, REASON),
        stage=_header(record, STAGE),
        exception=_header(record, EXCEPTION),
        message=_header(record, MESSAGE),
        generation=_header(record, GENERATION),
        source=source,
    )


def _coordinates(place: str) -> tuple[int, int]:
    """Parse `partition@offset`. Raises UsageError if it can't be a position."""
    if not re.fullmatch(r"[0-9]{1,9}@[0-9]{1,18}", place):
        raise UsageError(f"no dead letter at {place[:_SHOWN]}")
    partition, _, offset = place.partition("@")
    return int(partition), int(offset)


def _place(record: Record) -> str:
    return f"{record.partition}@{record.offset}"


def _header(record: Record, name: str) -> str:
    return _text(dict(record.headers).get(name))


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="replace")
