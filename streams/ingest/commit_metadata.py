"""Metadata of a committed offset: it shows later whether the log is still the same.

A log may be cut and grow again: a broker loses power before everything is on its disk, or a broker
that was behind takes over. The same offsets then belong to other records. So a committed position
carries the leader epoch that it was read under, and the digest of a record below it.

A position that no worker has committed was moved by hand, perhaps past events. A worker that goes
on from there commits that fact with every later position, until a verification has been clean.
"""

import hashlib
import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from confluent_kafka import TopicPartition

from pixtide.streams.ingest.in_flight import Place
from pixtide.streams.kafka.offsets import OURS, CommittedPosition
from pixtide.streams.kafka.records import Record

_NO_EPOCH = -1
#: How many bytes at either end of a value go into the digest.
_ENDS = 1024
_MOVED = r"(?: moved (\d+))?"
_TEXT = re.compile(rf"{OURS} (\d+) (-?\d+) ([0-9a-f]{{16}}){_MOVED}")


@dataclass(frozen=True)
class Mark:
    """A record: its place in its partition, and its digest. `timestamp_ms` is the record's own."""

    offset: int
    timestamp_ms: int
    digest: str

    @classmethod
    def of(cls, record: Record) -> Self:
        """The mark of this record."""
        value = record.value or b""
        digest = hashlib.blake2b(record.key or b"", digest_size=8)
        digest.update(b"%d" % len(value) + value[:_ENDS] + value[-_ENDS:])  # a picture may be large
        return cls(record.offset, record.timestamp_ms, digest.hexdigest())

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Parse `text`; None if it is no mark, such as one of an older version."""
        found = _TEXT.fullmatch(text)
        return cls(int(found[1]), int(found[2]), found[3]) if found else None

    @property
    def text(self) -> str:
        """The text to commit."""
        return f"{OURS} {self.offset} {self.timestamp_ms} {self.digest}"


def is_ours(position: CommittedPosition) -> bool:
    """Whether a worker has committed it; commits by an operator's tools carry no metadata."""
    return position.metadata.startswith(OURS)


def moved(position: CommittedPosition, now: datetime) -> CommittedPosition:
    """The same position, marked as moved by hand; a worker goes on from it now."""
    return position._replace(metadata=f"{OURS} moved {int(now.timestamp())}")


def moved_since(
    positions: Mapping[int, CommittedPosition],
    first: Mapping[int, int],
    verified_at: datetime | None,
) -> list[int]:
    """Partitions whose positions were moved by hand, and not verified as complete since.

    Args:
        first: where each partition begins; a position there has skipped nothing.
    """
    verified = verified_at.timestamp() if verified_at else 0
    return [
        number
        for number, position in positions.items()
        if position.offset > first[number]
        and (not is_ours(position) or (_moved_at(position.metadata) or 0) > verified)
    ]


def _moved_at(text: str) -> int | None:
    found = re.search(r" moved (\d+)$", text)
    return int(found[1]) if found else None


class Marks:
    """For each place, what to commit with an offset."""

    def __init__(self) -> None:
        self._moved: dict[Place, str] = {}
        self._read: dict[Place, deque[Mark]] = {}
        self._epochs: dict[Place, tuple[int, int]] = {}

    def begin(self, place: Place, position: CommittedPosition) -> None:
        """Start from what was committed before."""
        mark = Mark.read(position.metadata)
        self._read[place] = deque([mark] if mark else [])
        moved_at = _moved_at(position.metadata)
        self._moved[place] = "" if moved_at is None else f" moved {moved_at}"
        if position.leader_epoch is not None:
            self.vouch(place, position.leader_epoch, position.offset)

    def read(self, record: Record) -> None:
        """Note that this record was read."""
        place = (record.topic, record.partition)
        self._read.setdefault(place, deque()).append(Mark.of(record))
        if record.leader_epoch is not None:
            self.vouch(place, record.leader_epoch, record.offset + 1)

    def vouch(self, place: Place, leader_epoch: int, end: int) -> None:
        """Note that the partition has reached this end under that leader epoch."""
        self._epochs[place] = max((leader_epoch, end), self._epochs.get(place, (leader_epoch, end)))

    def lacking(self, offsets: Iterable[tuple[Place, int]]) -> set[Place]:
        """The places for which no known leader epoch reached these offsets."""
        return {place for place, offset in offsets if self._epoch(place, offset) == _NO_EPOCH}

    def position(self, place: Place, offset: int) -> TopicPartition:
        """The position to commit. Forgets what lies below that offset and isn't needed any more."""
        marks = self._read.get(place, deque())
        while len(marks) > 1 and marks[1].offset < offset:
            marks.popleft()
        text = marks[0].text if marks and marks[0].offset < offset else OURS
        text += self._moved.get(place, "")
        return TopicPartition(
            *place, offset, metadata=text, leader_epoch=self._epoch(place, offset)
        )

    def forget(self, partitions: Collection[int]) -> None:
        """Forget the partitions with these numbers: they are no longer ours."""
        for of_place in (self._read, self._epochs, self._moved):
            for place in [place for place in of_place if place[1] in partitions]:
                del of_place[place]

    def _epoch(self, place: Place, offset: int) -> int:
        """An epoch that reached this offset.

        A transaction's marker may have a newer epoch than the record before it. With that epoch it
        would seem that the log ended before the marker.
        """
        epoch, end = self._epochs.get(place, (_NO_EPOCH, -1))
        return epoch if offset <= end else _NO_EPOCH
