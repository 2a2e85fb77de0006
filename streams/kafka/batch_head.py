"""The head of a batch of records, which is never packed: which offsets are in it.

Source of the format: https://kafka.apache.org/documentation/#recordbatch
"""

import struct

#: Base offset, length, leader epoch, magic, checksum, attributes, the last offset's distance,
#: first and last timestamp, producer's id, epoch and sequence, count.
HEAD = struct.Struct(">qiibIhiqqqhii")
MAGIC_AT = 16
_BASE = struct.Struct(">q")


def offset_after(batch: bytes | memoryview) -> int | None:
    """The first offset that is no more in a batch; None where its head is not whole."""
    if len(batch) <= MAGIC_AT:
        return None
    base: int
    [base] = _BASE.unpack_from(batch)
    if batch[MAGIC_AT] != 2:
        return base + 1  # of an old compressed batch it is the last
    if len(batch) < HEAD.size:
        return None
    last: int = HEAD.unpack_from(batch)[6]
    return base + max(last, 0) + 1
