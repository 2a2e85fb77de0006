"""Records that no client of Kafka would write, sent as they are."""

import asyncio
import struct
from collections.abc import Sequence
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

Headers = Sequence[tuple[str, bytes | None]]
_HEADER = struct.Struct(">qiibIhiqqqhii")
_CRC_AT, _CRC_FROM, _FLAGS_AT = 17, 21, 22
_CONTROL = 0x20


class Raw(str):
    """A header's name that is written as these bytes, UTF-8 or not."""

    raw: bytes

    def encode(self, *_: Any) -> bytes:
        """The bytes."""
        return self.raw

    @classmethod
    def of(cls, raw: bytes) -> "Raw":
        """A name of these bytes."""
        made = cls(raw.decode("latin-1"))
        made.raw = raw
        return made


def batch(
    values: Sequence[bytes | None],
    headers: Headers = (),
    *,
    base: int = 0,
    codec: int = 0,
    timestamp_ms: int = 1000,
    control: bool = False,
) -> bytes:
    """A batch of format 2, one record for each value; the last codec is 4, zstd."""
    builder = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, -1, 2**24)
    for number, value in enumerate(values):
        builder.append(number, timestamp_ms + number, b"key", value, list(headers))
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, base)
    if control:
        data[_FLAGS_AT] |= _CONTROL
    return checked(bytes(data))


def packed(content: bytes, codec: int, *, base: int = 0, count: int = 1) -> bytes:
    """A batch whose records are these bytes, packed already."""
    head = (base, 49 + len(content), 0, 2, 0, codec, count - 1, 0, 0, -1, -1, -1, count)
    return checked(_HEADER.pack(*head) + content)


def checked(data: bytes) -> bytes:
    """With the checksum that it ought to have."""
    mended = bytearray(data)
    struct.pack_into(">I", mended, _CRC_AT, calc_crc32c(bytes(mended[_CRC_FROM:])))
    return bytes(mended)


def send(bootstrap: str, topic: str, partition: int, *batches: bytes) -> list[int]:
    """Produce each; the broker's error codes, 0 where it took it."""

    async def produce() -> list[int]:
        client = AIOKafkaClient(bootstrap_servers=bootstrap)
        await client.bootstrap()
        try:
            client.add_topic(topic)
            await client.force_metadata_update()
            leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
            codes = []
            for each in batches:
                request = ProduceRequest(None, -1, 10_000, [(topic, [(partition, each)])])
                response = await client.send(leader, request)
                codes.append(response.topics[0][1][0][1])
            return codes
        finally:
            await client.close()

    return asyncio.run(produce())
