"""Produces record batches byte by byte: header names and batches that no client library makes.

Source of the format: Kafka's protocol guide, record batch (magic 2) and Produce request version 7.
"""

import gzip
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

import cramjam
from aiokafka.record.util import calc_crc32c


@dataclass(frozen=True)
class RawRecord:
    """A record as bytes; header names, too."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[bytes, bytes | None]] = ()


def batch(
    records: Sequence[RawRecord], *, codec: int = 0, timestamp_ms: int | None = None
) -> bytes:
    """One record batch, packed by codec 0 (none), 1 (gzip) or 4 (zstd)."""
    now = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
    body = b"".join(_record(number, record) for number, record in enumerate(records))
    if codec == 1:
        body = gzip.compress(body, 1)
    elif codec == 4:
        body = bytes(cramjam.zstd.compress(body, 1))
    last, count = len(records) - 1, len(records)
    head = struct.pack(">hiqqqhii", codec, last, now, now, -1, -1, -1, count)
    checked = head + body
    after_length = struct.pack(">ibI", -1, 2, calc_crc32c(checked)) + checked
    return struct.pack(">qi", 0, len(after_length)) + after_length


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
    body = b"\0" + _varint(0) + _varint(number) + _bytes(record.key) + _bytes(record.value)
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
