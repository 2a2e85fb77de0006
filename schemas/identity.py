"""What identifies a picture, a version of it, its object in the index and its original."""

import re
import uuid
import zlib
from typing import Literal, NamedTuple

#: Namespace of every object id. Pinned for ever: changing it would orphan every stored object.
OBJECT_NAMESPACE = uuid.UUID("b0a6f1de-3b1c-5f0e-9a54-6d0f7c1f2a11")
MAX_IMAGE_ID_BYTES = 512
#: What `original_key` gives.
_ORIGINAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9a-f]{64}\.[^/]+\Z")

Partitioner = Literal["murmur2", "crc32", "unchecked"]


class Version(NamedTuple):
    """Where in the log a picture's record stands.

    Two versions of one image id lie in one partition, so (epoch, offset) orders them; the
    epoch counts the logs that a generation has lived through.
    """

    epoch: int
    partition: int
    offset: int

    def newer_than(self, other: "Version") -> bool:
        """Whether this record came later than `other` in the log of the same key."""
        return (self.epoch, self.offset) > (other.epoch, other.offset)


def object_id(image_id: str) -> uuid.UUID:
    """The index object's id: one object per image id, whatever the worker or the attempt."""
    return uuid.uuid5(OBJECT_NAMESPACE, image_id)


def original_folder(image_id: str) -> str:
    """The folder of the image store that holds this picture's original and nothing else."""
    return str(object_id(image_id))


def original_key(image_id: str, sha256: str, extension: str) -> str:
    """The image store's key of an original: `<uuid5 of image id>/<sha256>.<ext>`."""
    return f"{original_folder(image_id)}/{sha256}.{extension}"


def original_key_in(uri: str) -> str:
    """The key of an original that a URI ends with, or that is one; empty where there is none."""
    found = _ORIGINAL.search(uri)
    return found.group() if found else ""


def partition_of(key: bytes, partitions: int, partitioner: Partitioner) -> int | None:
    """The partition that `key` belongs to, or None where the topic's partitioner is unchecked."""
    if partitioner == "murmur2":
        return (murmur2(key) & 0x7FFFFFFF) % partitions
    if partitioner == "crc32":
        return zlib.crc32(key) % partitions
    return None


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bit, with the seed and constants of Kafka's Java client.

    Source: A. Appleby's MurmurHash2 (public domain) as used by
    org.apache.kafka.common.utils.Utils.murmur2; librdkafka's `murmur2_random` agrees with it.
    """
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if len(data) > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15
