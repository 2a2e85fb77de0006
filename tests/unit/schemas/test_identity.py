"""Identity is pinned: these values may never change."""

import uuid

import pytest

from pixtide.schemas.identity import Version, murmur2, object_id, original_key, partition_of


@pytest.mark.parametrize(
    ("data", "signed"),
    # The values that Apache Kafka's own UtilsTest.testMurmur2 checks.
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed & 0xFFFFFFFF


def test_partitioners() -> None:
    assert partition_of(b"abc", 7, "murmur2") == (479470107 & 0x7FFFFFFF) % 7
    assert partition_of(b"abc", 7, "crc32") == 0x352441C2 % 7
    assert partition_of(b"abc", 7, "unchecked") is None


def test_object_ids_are_pinned() -> None:
    assert object_id("a") == uuid.UUID("b40931a7-9c52-547b-8f77-c19de388d68a")
    assert original_key("a", "0" * 64, "jpg") == f"{object_id('a')}/{'0' * 64}.jpg"


def test_the_epoch_comes_before_the_offset() -> None:
    assert Version(2, 0, 0).newer_than(Version(1, 0, 99))
    assert Version(1, 0, 2).newer_than(Version(1, 0, 1))
    assert not Version(1, 0, 1).newer_than(Version(1, 0, 1))
