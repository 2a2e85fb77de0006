"""Whatever a partition holds is read offset by offset, and what can't be read costs itself."""

import zlib
from collections.abc import Sequence
from typing import Any

import aiokafka.consumer.fetcher
import cramjam
import pytest
from aiokafka.record.legacy_records import _LegacyRecordBatchBuilderPy
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from pixtide.streams.query import record_batches
from pixtide.streams.query.record_batches import MOST_UNPACKED, FetchedBytes, NoRecord, ReadRecords
from tests.support import raw_records
from tests.support.raw_records import RawRecord, checked

HEADERS = [(b"kafka_replyTopic", b"search.replies"), (b"none", None), ("é".encode(), b"")]
READ = [(name.decode(), value) for name, value in HEADERS]


def batch(
    base: int,
    values: Sequence[bytes | None],
    codec: int = 0,
    headers: Sequence[tuple[bytes, bytes | None]] = HEADERS,
    **others: Any,
) -> bytes:
    records = [RawRecord(b"key", value, headers) for value in values]
    return raw_records.batch(records, base=base, codec=codec, **others)


def packed(base: int, content: bytes, codec: int, count: int = 1) -> bytes:
    return raw_records.packed(content, codec, base=base, count=count)


def read(data: bytes, position: int = 0) -> tuple[list[Any], int]:
    """The records, and where to go on."""
    records = ReadRecords(TopicPartition("t", 0), FetchedBytes(data), None, position, None, None)
    return list(records), records.next_fetch_offset


def reasons(found: list[Any]) -> list[str | None]:
    return [each.headers.reason for each in found if isinstance(each.headers, NoRecord)]


def test_it_takes_the_places_of_what_aiokafkas_fetcher_uses() -> None:
    record_batches.install()
    code = aiokafka.consumer.fetcher.Fetcher._proc_fetch_request.__code__
    assert {"MemoryRecords", "PartitionRecords"} <= set(code.co_names)
    assert aiokafka.consumer.fetcher.MemoryRecords is FetchedBytes
    assert aiokafka.consumer.fetcher.PartitionRecords is ReadRecords


@pytest.mark.parametrize("codec", range(5))
def test_each_codec(codec: int) -> None:
    found, end = read(
        batch(7, [b"one", None, b"x" * 100_000], codec, timestamp_ms=1000)
        + batch(10, [b"four"], codec)
    )
    assert [each.offset for each in found] == [7, 8, 9, 10]
    assert [each.value for each in found] == [b"one", None, b"x" * 100_000, b"four"]
    assert (found[0].key, found[0].timestamp, found[1].timestamp) == (b"key", 1000, 1001)
    assert found[0].headers == tuple(READ)
    assert end == 11


def test_from_within_a_batch_and_with_a_last_one_that_is_cut_off() -> None:
    data = batch(0, [b"a", b"b", b"c"]) + batch(3, [b"d"])[:-5]
    found, end = read(data, 2)
    assert [(each.offset, each.value) for each in found] == [(2, b"c")]
    assert end == 3


def test_a_header_name_that_is_not_utf8_is_read_as_it_is() -> None:
    [one], _ = read(batch(0, [b"a"], headers=[(b"\xff\xfe", b"1"), HEADERS[0]]))
    assert one.value == b"a"
    assert one.headers == (("\udcff\udcfe", b"1"), READ[0])


def test_a_record_of_countless_headers_costs_itself() -> None:
    """29 kB of gzip hold 15 million empty ones, which took the consumer a minute and 2 GB."""
    many: list[tuple[bytes, bytes | None]] = [(b"", None)] * 1_001
    found, end = read(batch(0, [b"a"], headers=many) + batch(1, [b"b"], headers=many[1:]))
    assert [each.offset for each in found] == [0, 1]
    assert reasons(found) == ["a record can't be read: 1001 headers; at most 1000 are read"]
    assert (found[1].value, len(found[1].headers), end) == (b"b", 1_000, 2)


def test_of_a_batch_of_countless_records_the_first_are_read() -> None:
    found, end = read(batch(0, [None] * 10_500, 4, headers=()) + batch(10_500, [b"b"]))
    assert [each.offset for each in found[:10_000]] == list(range(10_000))
    assert sum(each.headers.offsets for each in found if isinstance(each.headers, NoRecord)) == 500
    assert reasons(found) == ["a batch has 10500 records; 10000 are read of one"] * 3
    assert (found[-1].value, end) == (b"b", 10_501)


def test_a_transactions_marker_takes_its_offset() -> None:
    found, end = read(
        batch(0, [b"a"]) + batch(1, [b"\0\0\0\0\0\0"], control=True) + batch(2, [b"b"])
    )
    assert [each.offset for each in found] == [0, 1, 2]
    assert reasons(found) == [None]
    assert end == 3


@pytest.mark.parametrize(
    "bad",
    [
        batch(1, [b"x", b"y", b"z"])[:-1] + b"!",
        packed(1, b"no such codec", 7, 3),
        packed(1, b"not zstd", 4, 3),
        packed(1, b"\x06", 0, 3),
        packed(1, b"", 0, 3),
        packed(1, b"\xff" * 30, 0, 3),
    ],
)
def test_what_can_not_be_opened_is_passed_and_told(bad: bytes) -> None:
    found, end = read(batch(0, [b"a"]) + bad + batch(4, [b"b"]))
    assert [each.offset for each in found] == [0, 1, 2, 3, 4]
    assert len(reasons(found)) == 3
    assert all(reasons(found))
    assert end == 5


def test_a_great_batch_is_passed_in_three_steps() -> None:
    found, end = read(packed(0, b"?", 4, 1000))
    assert [(each.offset, each.headers.offsets) for each in found] == [(0, 1), (1, 1), (999, 998)]
    assert end == 1000


def test_one_bad_record_of_a_batch() -> None:
    def record(place: int) -> bytes:
        return b"\x0e\0\0" + bytes([2 * place]) + b"\x01\x02a\0"

    found, end = read(packed(5, record(0) + b"\x04\0\x80" + record(2), 0, 3))
    assert [(each.offset, each.value) for each in found] == [(5, b"a"), (6, None), (7, b"a")]
    assert len(reasons(found)) == 1
    assert end == 8


_ZEROS = b"\0" * (MOST_UNPACKED + 1)


@pytest.mark.parametrize(
    ("codec", "content"),
    [
        (1, zlib.compress(_ZEROS, wbits=31)),
        (2, bytes(cramjam.snappy.compress_raw(_ZEROS))),
        (3, bytes(cramjam.lz4.compress(_ZEROS))),
        (4, bytes(cramjam.zstd.compress(_ZEROS))),
    ],
)
def test_what_unpacks_to_too_much_is_passed(codec: int, content: bytes) -> None:
    found, end = read(packed(0, content, codec) + batch(1, [b"good"]))
    assert found[-1].value == b"good"
    assert len(reasons(found)) == 1
    assert end == 2


def test_an_old_format_is_read_where_it_is_plain() -> None:
    builder = _LegacyRecordBatchBuilderPy(1, 0, 2**20)
    builder.append(0, 5, b"key", b"value")
    [one], end = read(bytes(builder.build()))
    assert (one.value, end) == (b"value", 1)
    builder = _LegacyRecordBatchBuilderPy(1, 1, 2**20)
    builder.append(0, 5, b"key", b"value" * 100)
    found, end = read(bytes(builder.build()))
    assert (len(reasons(found)), end) == (1, 1)


@settings(deadline=None)
@given(
    data=st.binary(max_size=200),
    codec=st.integers(0, 7),
    count=st.integers(-3, 2000),
    then=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    mended=st.booleans(),
)
def test_any_bytes_are_read_and_each_offset_comes_once(
    data: bytes, codec: int, count: int, then: list[tuple[int, int]], mended: bool
) -> None:
    whole = bytearray(batch(3, [b"a", b"b"], codec % 5) + packed(5, data, codec, count))
    for place, byte in then:
        if place < len(whole):
            whole[place] = byte
    found, end = read(checked(bytes(whole)) if mended else bytes(whole), 3)
    offsets = [each.offset for each in found]
    assert offsets == sorted(set(offsets))
    assert all(3 <= offset < end for offset in offsets)
    assert end > 3, "it gets past whatever is there"


def test_batches_of_earlier_offsets_alone_are_passed() -> None:
    found, end = read(batch(-9, [b"a"]), 3)
    assert ([each.offset for each in found], len(reasons(found)), end) == ([3], 1, 4)


@given(st.binary(max_size=100))
def test_what_is_no_batch_at_all_is_passed(data: bytes) -> None:
    if FetchedBytes(data).has_next():
        _, end = read(data, 9)
        assert end > 9 or not data
