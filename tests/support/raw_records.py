"""Record batches byte by byte: what no client library makes, sent as it is.

Source of the format: Kafka's protocol guide, record batch (magic 2) and Produce request version 7.
"""

import gzip
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cramjam
from aiokafka.codec import lz4_encode
from aiokafka.record.util import calc_crc32c

from pixtide.streams.kafka.batch_head import HEAD

Headers = Sequence[tuple[bytes, bytes | None]]


@dataclass(frozen=True)
class RawRecord:
    """A record as bytes; header names, too."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()


_CRC_AT, _CRC_FROM = 17, 21
_CONTROL = 0x20
_PACK: dict[int, Callable[[bytes], bytes]] = {
    0: lambda body: body,
    1: lambda body: gzip.compress(body, 1),
    2: lambda body: bytes(cramjam.snappy.compress_raw(body)),
    3: lambda body: bytes(lz4_encode(body)),
    4: lambda body: bytes(cramjam.zstd.compress(body, 1)),
}


def batch(
    records: Sequence[RawRecord],
    *,
    codec: int = 0,
    base: int = 0,
    timestamp_ms: int | None = None,
    control: bool = False,
) -> bytes:
    """One record batch of format 2; the last codec is 4, zstd."""
    now = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
    body = b"".join(_record(number, record) for number, record in enumerate(records))
    flags = codec | (_CONTROL if control else 0)
    return packed(_PACK[codec](body), flags, base=base, count=len(records), timestamp_ms=now)


def packed(
    content: bytes, codec: int, *, base: int = 0, count: int = 1, timestamp_ms: int = 0
) -> bytes:
    """A batch whose records are these bytes, packed already."""
    size, last = HEAD.size - 12 + len(content), count - 1
    head = (base, size, -1, 2, 0, codec, last, timestamp_ms, timestamp_ms + last)
    return checked(HEAD.pack(*head, -1, -1, -1, count) + content)


def checked(data: bytes) -> bytes:
    """With the checksum that it ought to have."""
    right = bytearray(data)
    struct.pack_into(">I", right, _CRC_AT, calc_crc32c(bytes(right[_CRC_FROM:])))
    return bytes(right)


def produce(address: str, topic: str, partition: int, made: bytes) -> tuple[int, int]:
    """Send one batch to the only broker; its error code (0 is fine) and first offset."""
    host, _, port = address.rpartition(":")
    name = topic.encode()
    request = struct.pack(">hhi", 0, 7, 7) + _string(b"stranger")  # header: Produce, version 7
    request += struct.pack(">hhi", -1, -1, 30_000)  # no transaction, acks of all, time-out in ms
    request += struct.pack(">i", 1) + _string(name) + struct.pack(">ii", 1, partition)
    request += struct.pack(">i", len(made)) + made
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = connection.makefile("rb")
        size = struct.unpack(">i", answer.read(4))[0]
        told = answer.read(size)
    at = 4 + 4 + 2 + len(name) + 4 + 4  # correlation, topics, name, partitions, number
    code, offset = struct.unpack_from(">hq", told, at)
    return code, offset


def _record(number: int, record: RawRecord) -> bytes:
    body = b"\0" + _varint(number) + _varint(number) + _bytes(record.key) + _bytes(record.value)
    body += _varint(len(record.headers))
    for name, value in record.headers:
        body += _varint(len(name)) + name + _bytes(value)
    return _varint(len(body)) + body


def _bytes(value: bytes | None) -> bytes:
    return _varint(-1) if value is None else _varint(len(value)) + value


def _varint(value: int) -> bytes:
    rest = (value << 1) ^ (value >> 63)
    made = bytearray()
    while rest > 0x7F:
        made.append(rest & 0x7F | 0x80)
        rest >>= 7
    made.append(rest)
    return bytes(made)


def _string(value: bytes) -> bytes:
    return struct.pack(">h", len(value)) + value
