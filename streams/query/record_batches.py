"""Reads the records that a broker has sent, so that an unreadable one costs only itself.

aiokafka reads a fetched partition as a whole. If it meets a codec that it doesn't have, a header
name that isn't UTF-8 or a wrong checksum, its fetcher ends, and so does the consumer, again at
every start. The code here returns one record for each offset instead:

- a record that can be read, as it is; header names that aren't UTF-8 with `surrogateescape`
- `NoRecord` headers with the reason for an offset that can't be read; a batch that can't be opened
  is skipped
- `NoRecord` headers without a reason for a transaction's marker, which also takes an offset

So each offset is acknowledged like any other, and the group's commits reach the end.

Source of the format: https://kafka.apache.org/documentation/#recordbatch
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import aiokafka.consumer.fetcher
import cramjam
import numpy as np
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import ConsumerRecord

from pixtide.streams.kafka.batch_head import HEAD, MAGIC_AT, offset_after

#: The most that a batch may decompress to. A broker accepts about a MiB of compressed ones, and
#: zstd compresses zeros to a thirty-thousandth.
MOST_UNPACKED = 32 * 1024 * 1024

Headers = list[tuple[str, bytes | None]]
#: Offset, timestamp in ms, key, value, headers.
Read = tuple[int, int, bytes | None, bytes | None, "Headers | NoRecord"]

_LENGTH = struct.Struct(">qi")
_LEGACY_ATTRIBUTES_AT, _CRC_FROM = 17, 21
_CODEC, _LOG_APPEND_TIME, _CONTROL = 0x07, 0x08, 0x20
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_TOO_MUCH = f"it unpacks to more than {MOST_UNPACKED} bytes"
#: More than any client normally sends, but a few kilobytes can decompress to it. Each record takes
#: a moment of the consumer's thread, which answers nobody else meanwhile. librdkafka puts 10,000
#: into a batch at most.
_MOST_READ, _MOST_HEADERS = 10_000, 1_000
#: The most bytes of a varint of 64 bits.
_VARINT_BYTES = 10


class NoRecord(tuple[tuple[str, bytes], ...]):
    """The empty headers of offsets without a readable record.

    `reason` is None if there is nothing to read; `offsets` is how many offsets it stands for.
    """

    reason: str | None
    offsets: int

    @classmethod
    def of(cls, reason: str | None, offsets: int = 1) -> "NoRecord":
        """A NoRecord for so many offsets."""
        self = cls()
        self.reason, self.offsets = reason, offsets
        return self


class UnreadableError(ValueError):
    """A batch or a record can't be read; the message says why."""


class FetchedBytes:
    """A partition's bytes from a broker; replaces aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes | None) -> None:
        self._data = data or b""

    def has_next(self) -> bool:
        """Whether there is anything to read or to skip."""
        return bool(self._data)

    def size_in_bytes(self) -> int:
        """The size of everything."""
        return len(self._data)

    def batches(self) -> Iterator[memoryview]:
        """Each batch. A last batch that is incomplete is left out; brokers may send one.

        Raises:
            UnreadableError: the first batch is incomplete, or the end of one can't be found.
        """
        data, at = memoryview(self._data), 0
        while len(data) - at >= _LENGTH.size:
            _, length = _LENGTH.unpack_from(data, at)
            end = at + _LENGTH.size + length
            if length <= MAGIC_AT - _LENGTH.size:
                raise UnreadableError("a batch says that it has no length")
            if end > len(data):
                break
            yield data[at:end]
            at = end
        if at == 0:
            raise UnreadableError("a batch is larger than what was fetched of it")


class ReadRecords:
    """The records of a fetched partition, in order; replaces aiokafka's `PartitionRecords`.

    `next_fetch_offset` is where to fetch next, after the records returned so far.
    """

    def __init__(
        self, tp: Any, records: FetchedBytes, _aborted: Any, fetch_offset: int, *_: Any
    ) -> None:
        self._tp = tp
        self.next_fetch_offset = fetch_offset
        self._records = self._read(records)

    def __iter__(self) -> "ReadRecords":
        return self

    def __next__(self) -> Any:
        return next(self._records)

    def _read(self, records: FetchedBytes) -> Iterator[Any]:
        asked = self.next_fetch_offset
        try:
            for batch in records.batches():
                yield from self._of(batch)
            if self.next_fetch_offset == asked:  # the same would be fetched again, for ever
                raise UnreadableError("all batches say that they are of earlier offsets")
        except UnreadableError as error:
            yield from self._nothing(self.next_fetch_offset + 1, str(error))

    def _of(self, batch: memoryview) -> Iterator[Any]:
        """The records of one batch: each of its offsets once, whatever is in it."""
        following = offset_after(batch) or self.next_fetch_offset + 1
        reason: str | None = None
        try:
            for offset, timestamp, key, value, headers in _records_of(batch):
                if self.next_fetch_offset <= offset < following:
                    self.next_fetch_offset = offset + 1
                    yield self._record(offset, timestamp, key, value, headers)
        except Exception as error:  # noqa: BLE001  # reported below, by offset
            reason = str(error) or type(error).__name__
        if self.next_fetch_offset < following and reason is None and not _is_control(batch):
            self.next_fetch_offset = following  # compaction removed the rest
        yield from self._nothing(following, reason)

    def _nothing(self, following: int, reason: str | None) -> Iterator[Any]:
        """Empty records up to that offset: two single ones first, then one for all the rest.

        Faust fills a gap between two offsets, but not a gap before the log's first one.
        """
        left = following - self.next_fetch_offset
        steps = [1] * left if left <= 2 else [1, 1, left - 2]
        for count in steps:
            self.next_fetch_offset += count
            yield self._record(
                self.next_fetch_offset - 1, -1, None, None, NoRecord.of(reason, count)
            )

    def _record(
        self,
        offset: int,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | NoRecord,
    ) -> Any:
        return ConsumerRecord(
            self._tp.topic,
            self._tp.partition,
            offset,
            timestamp,
            0,
            key,
            value,
            None,
            -1 if key is None else len(key),
            -1 if value is None else len(value),
            headers if isinstance(headers, NoRecord) else tuple(headers),
        )


def install() -> None:
    """Make aiokafka's fetchers use this reader from now on."""
    aiokafka.consumer.fetcher.MemoryRecords = FetchedBytes
    aiokafka.consumer.fetcher.PartitionRecords = ReadRecords


def _is_control(batch: memoryview) -> bool:
    return (
        batch[MAGIC_AT] == 2
        and len(batch) >= HEAD.size
        and bool(HEAD.unpack_from(batch)[5] & _CONTROL)
    )


def _records_of(batch: memoryview) -> Iterator[Read]:
    """The readable records of a batch; control batches have none.

    Raises:
        Exception: the batch can't be opened, or can't be read from some point on.
    """
    magic = batch[MAGIC_AT]
    if magic < 2:
        yield from _old(batch, magic)
        return
    if magic > 2 or len(batch) < HEAD.size:
        raise UnreadableError(f"a batch has the format {magic}, of {len(batch)} bytes")
    base, _, _, _, crc, attributes, _, first_ms, last_ms, _, _, _, count = HEAD.unpack_from(batch)
    if calc_crc32c(bytes(batch[_CRC_FROM:])) != crc:
        raise UnreadableError("a batch's checksum is wrong")
    if attributes & _CONTROL:
        return
    content, at = _unpacked(bytes(batch[HEAD.size :]), attributes & _CODEC), 0
    appended = last_ms if attributes & _LOG_APPEND_TIME else None
    for number in range(count):
        if number == _MOST_READ:
            raise UnreadableError(f"a batch has {count} records; {_MOST_READ} are read of one")
        length, start = _varint(content, at)
        at = start + length
        if length < 0 or at > len(content):
            raise UnreadableError("a record is longer than its batch")
        try:
            offset, after_ms, key, value, headers = _record(content[start:at])
        except (ValueError, IndexError) as error:
            nothing = NoRecord.of(f"a record can't be read: {error}")
            yield base + number, -1, None, None, nothing
        else:
            timestamp = first_ms + after_ms if appended is None else appended
            yield base + offset, timestamp, key, value, headers


def _record(content: bytes) -> Read:
    """One record; its offset and timestamp are relative to those of its batch."""
    after_ms, at = _varint(content, 1)
    offset, at = _varint(content, at)
    key, at = _bytes(content, at)
    value, at = _bytes(content, at)
    count, at = _varint(content, at)
    if not 0 <= count <= _MOST_HEADERS:
        raise UnreadableError(f"{count} headers; at most {_MOST_HEADERS} are read")
    headers: Headers = []
    for _ in range(count):
        name, at = _bytes(content, at)
        if name is None:
            raise UnreadableError("a header without a name")
        held, at = _bytes(content, at)
        headers.append((name.decode(errors="surrogateescape"), held))
    if at != len(content):
        raise UnreadableError(f"{len(content) - at} bytes after its end")
    return offset, after_ms, key, value, headers


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A zigzag number, and where it ends."""
    byte = content[at]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at + 1
    number = shift = 0
    for place in range(at, at + _VARINT_BYTES):
        byte = content[place]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), place + 1
        shift += 7
    raise UnreadableError(f"a number of more than {_VARINT_BYTES} bytes")


def _bytes(content: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _varint(content, at)
    if length < 0:
        return None, at
    if at + length > len(content):
        raise UnreadableError("a field is longer than its record")
    return content[at : at + length], at + length


def _old(batch: memoryview, magic: int) -> Iterator[Read]:
    """Message formats 0 and 1, of Kafka before 0.11, not compressed."""
    if batch[_LEGACY_ATTRIBUTES_AT] & _CODEC:
        raise UnreadableError(f"a compressed batch of the old format {magic}")
    old = LegacyRecordBatch(bytes(batch), magic)
    if not old.validate_crc():
        raise UnreadableError("a message's checksum is wrong")
    for record in old:
        yield record.offset, record.timestamp or -1, record.key, record.value, []


# Decompressing: each codec is limited to MOST_UNPACKED.


def _unpacked(packed: bytes, codec: int) -> bytes:
    if codec == 0:
        return packed
    if codec not in _CODECS:
        raise UnreadableError(f"codec {codec} is unknown")
    name, unpack = _CODECS[codec]
    try:
        return unpack(packed)
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(f"a batch packed with {name} can't be unpacked: {error}") from error


def _gzip(packed: bytes) -> bytes:
    unpacking = zlib.decompressobj(zlib.MAX_WBITS + 16)
    content = unpacking.decompress(packed, MOST_UNPACKED + 1)
    if len(content) > MOST_UNPACKED:
        raise UnreadableError(_TOO_MUCH)
    if not unpacking.eof:
        raise UnreadableError("it ends early")
    return content


def _snappy(packed: bytes) -> bytes:
    if not packed.startswith(_XERIAL):
        return _snappy_block(packed, MOST_UNPACKED)
    content, at = bytearray(), _XERIAL_HEADER_BYTES
    while at < len(packed):
        (length,) = struct.unpack_from(">i", packed, at)
        at += 4
        if length < 0 or at + length > len(packed):
            raise UnreadableError("a block is longer than its batch")
        content += _snappy_block(packed[at : at + length], MOST_UNPACKED - len(content))
        at += length
    return bytes(content)


def _snappy_block(packed: bytes, most: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(packed) > most:
        raise UnreadableError(_TOO_MUCH)
    return bytes(cramjam.snappy.decompress_raw(packed))


def _lz4(packed: bytes) -> bytes:
    return _into(cramjam.lz4.decompress_into, packed)


def _zstd(packed: bytes) -> bytes:
    return _into(cramjam.zstd.decompress_into, packed)


def _into(unpack: Callable[[bytes, Any], int], packed: bytes) -> bytes:
    """Decompress into memory that the system provides only as it is written to."""
    room = np.empty(MOST_UNPACKED, np.uint8)
    return room[: unpack(packed, room)].tobytes()


_CODECS: dict[int, tuple[str, Callable[[bytes], bytes]]] = {
    1: ("gzip", _gzip),
    2: ("snappy", _snappy),
    3: ("lz4", _lz4),
    4: ("zstd", _zstd),
}
