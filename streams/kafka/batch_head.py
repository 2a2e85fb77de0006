"""The head of a record batch, which is never compressed: it says which offsets are in the batch.

Source of the format: https://kafka.apache.org/documentation/#recordbatch
"""

import struct

#: Base offset, length, leader epoch, magic, checksum, attributes, last offset minus base offset,
#: first and last timestamp, producer's id, epoch and sequence, count.
HEAD = struct.Struct(">qiibIhiqqqhii")
MAGIC_AT = 16
_BASE = struct.Struct(">q")


def offset_after(batch: bytes | memoryview) -> int | None:
    """The first offset after a batch; None if the batch's head is incomplete."""
    if len(batch) <= MAGIC_AT:
        return None
    base: int
    [base] = _BASE.unpack_from(batch)
    if batch[MAGIC_AT] != 2:
        return base + 1  # in an old compressed batch it is the last
    if len(batch) < HEAD.size:
        return None
    last: int = HEAD.unpack_from(batch)[6]
    return base + max(last, 0) + 1
