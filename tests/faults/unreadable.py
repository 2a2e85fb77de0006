"""Produces records whose headers have names that are not UTF-8, which no client of ours can write:

    python tests/faults/unreadable.py BOOTSTRAP < RECORDS

Each line of RECORDS is JSON: topic, partition, and in base64 key, value and a list of headers.
"""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class RawRecord:
    """A record, whatever bytes it is made of."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]


def send(bootstrap: str, records: Sequence[RawRecord]) -> None:
    """Produce these, in a process of its own: it needs aiokafka's encoder that is plain Python."""
    lines = "\n".join(json.dumps(_line(record)) for record in records)
    environment = os.environ | {"AIOKAFKA_NO_EXTENSIONS": "1"}
    command = [sys.executable, __file__, bootstrap]
    subprocess.run(command, input=lines, env=environment, text=True, check=True, timeout=60)


def _line(record: RawRecord) -> dict[str, object]:
    return {
        "topic": record.topic,
        "partition": record.partition,
        "key": _text(record.key),
        "value": _text(record.value),
        "headers": [(_text(name), _text(value)) for name, value in record.headers],
    }


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


class _Name(str):
    """A text that is encoded as these bytes, whatever they are."""

    raw: bytes

    def __new__(cls, raw: bytes) -> "_Name":
        made = super().__new__(cls, raw.decode("latin-1"))
        made.raw = raw
        return made

    def encode(self, *_: str, **__: str) -> bytes:
        return self.raw


async def _produce(bootstrap: str, lines: Sequence[str]) -> None:
    from aiokafka import AIOKafkaProducer

    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=2**21)
    await producer.start()
    try:
        for line in lines:
            record = json.loads(line)
            await producer.send_and_wait(
                record["topic"],
                _bytes(record["value"]),
                _bytes(record["key"]),
                partition=record["partition"],
                headers=[
                    (_Name(_bytes(name) or b""), _bytes(value)) for name, value in record["headers"]
                ],
            )
    finally:
        await producer.stop()


if __name__ == "__main__":
    asyncio.run(_produce(sys.argv[1], sys.stdin.read().splitlines()))
