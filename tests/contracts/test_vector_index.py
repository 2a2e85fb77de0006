"""What every `VectorIndex` does with rows: newest wins, whole and read back as written."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from pixtide.schemas.errors import ReasonCode
from pixtide.schemas.identity import Version
from pixtide.search.port import Query, RowState, StoredImage, VectorIndex
from tests.contracts.samples import DIMENSION, deleted, full_row, live, poisoned, towards


def test_every_field_comes_back(index: VectorIndex) -> None:
    row = full_row()
    [written] = index.write([row])
    assert (written.applied, written.previous, written.error) == (True, None, None)
    found = index.get([row.image_id])[row.image_id]
    assert found == row
    assert found.vector is not None
    assert found.vector.dtype == np.float32
    assert np.abs(found.vector - towards(1, 2, 3)).max() < 1e-6
    assert next(iter(index.scan())) == row.without_vector()


def test_the_emptiest_rows_come_back(index: VectorIndex) -> None:
    rows = [
        StoredImage("bare", RowState.LIVE, Version(1, 0, 1), vector=towards(1)),
        deleted("gone", 2),
        poisoned("bad", 3),
    ]
    index.write(rows)
    found = index.get([row.image_id for row in rows])
    assert [found[row.image_id] for row in rows] == rows
    assert found["gone"].vector is None
    assert found["bad"].reason is ReasonCode.TRUNCATED_IMAGE


def test_content_is_found_whatever_id_it_is_under(index: VectorIndex) -> None:
    known, other, gone = (letter * 64 for letter in "abc")
    rows = [
        live("first", 1, towards(1, 2), sha256=known, width=7, format="PNG"),
        live("second", 2, towards(1, 2), sha256=known),
        live("other", 3, towards(2, 1), sha256=other),
        live("gone", 4, sha256=gone),
    ]
    index.write(rows)
    index.write([deleted("gone", 5)])
    found = index.with_content([known, other, gone, "d" * 64])
    assert set(found) == {known, other}
    assert found[known].image_id in ("first", "second")
    vector = found[known].vector
    assert vector is not None
    assert np.abs(vector - towards(1, 2)).max() < 1e-6
    assert found[other] == rows[2]
    assert index.with_content([]) == {}


@pytest.mark.parametrize(
    "image_id", ["x" * 512, "猫" * 170, "' OR 1=1 --", '"; DROP', "a/b\\c", "%_", " ", "\t\x00"]
)
def test_any_id_is_an_id(index: VectorIndex, image_id: str) -> None:
    index.write([live(image_id), live("another")])
    assert set(index.get([image_id])) == {image_id}
    [written] = index.write([live(image_id, 1)])
    assert written.applied
    assert written.previous is not None
    assert index.count()[RowState.LIVE] == 2


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-3))),
        datetime(2026, 7, 1, 1, 2, 3, 456789, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1900, 1, 1, tzinfo=timezone(timedelta(hours=2, minutes=30))),
    ],
)
def test_times_keep_their_moment(index: VectorIndex, moment: datetime) -> None:
    row = live("a", uploaded_at=moment)
    index.write([row])
    assert index.get(["a"])["a"].uploaded_at == moment
    assert index.write([row])[0].applied  # equal to itself after the round trip


def test_a_time_at_the_end_of_the_calendar_is_kept_as_well_as_can_be(index: VectorIndex) -> None:
    row = live("a", uploaded_at=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2))))
    index.write([row])
    assert index.write([row])[0].applied


def test_get_finds_what_there_is(index: VectorIndex) -> None:
    index.write([live("a"), live("b")])
    assert index.get([]) == {}
    assert set(index.get(["b", "nope", "b"])) == {"b"}
    assert index.write([]) == []


def test_the_newest_wins(index: VectorIndex) -> None:
    index.write([live("a", 10, caption="ten")])
    [older] = index.write([live("a", 9, caption="nine")])
    assert (older.applied, older.error) == (False, None)
    assert older.previous == live("a", 10, caption="ten")
    [newer] = index.write([live("a", 11, caption="eleven")])
    assert newer.applied
    assert newer.previous is not None
    assert newer.previous.vector is None
    [epoch] = index.write([live("a", caption="next log", version=Version(2, 0, 0))])
    assert epoch.applied
    assert index.get(["a"])["a"].caption == "next log"


def test_an_equal_version_may_only_repeat_itself(index: VectorIndex) -> None:
    row = live("a", 5, attributes={"n": 1.5}, tags=("x",))
    index.write([row])
    assert index.write([row])[0].applied
    assert not index.write([replace(row, caption="different")])[0].applied
    assert not index.write([deleted("a", 5)])[0].applied
    assert index.get(["a"])["a"] == row


def test_an_equal_version_heals_a_dead_letter(index: VectorIndex) -> None:
    index.write([live("a", 1), poisoned("b", 1)])
    index.write([poisoned("a", 2)])
    assert not _found(index)
    assert index.write([live("a", 2), live("b", 1)])[0].applied
    assert _found(index) == {"a", "b"}
    assert index.get(["a"])["a"].reason is None


def test_a_delete_leaves_a_row_that_nothing_finds(index: VectorIndex) -> None:
    index.write([live("a", 1, caption="secret", tags=("t",)), live("b", 1)])
    [written] = index.write([deleted("a", 2)])
    assert written.previous == live("a", 1, caption="secret", tags=("t",)).without_vector()
    assert _found(index) == {"b"}
    assert index.get(["a"])["a"] == deleted("a", 2)
    assert index.get(["a"])["a"].vector is None
    assert not index.write([live("a", 1)])[0].applied  # a replay
    assert _found(index) == {"b"}
    assert index.write([live("a", 3)])[0].applied  # uploaded again
    assert _found(index) == {"a", "b"}


def test_a_replaced_row_is_found_under_its_new_vector_only(index: VectorIndex) -> None:
    index.write([live("a", 1, towards(1)), live("b", 1, towards(0, 1))])
    index.write([live("a", 2, towards(0, 0, 1))])
    [[first, second]] = index.search([Query(towards(1), 10)])
    assert (first.similarity, second.similarity) == pytest.approx((0, 0), abs=1e-4)
    [[best, _]] = index.search([Query(towards(0, 0, 1), 10)])
    assert (best.row.image_id, best.row.version.offset) == ("a", 2)


def test_scan_and_count_see_every_state(index: VectorIndex) -> None:
    assert list(index.scan()) == []
    assert index.count() == {RowState.LIVE: 0, RowState.DELETED: 0, RowState.DEAD_LETTERED: 0}
    rows = [live(f"l{n}", n) for n in range(230)]
    rows += [deleted(f"d{n}", n) for n in range(3)] + [poisoned("p", 0)]
    index.write(rows)
    assert index.count() == {RowState.LIVE: 230, RowState.DELETED: 3, RowState.DEAD_LETTERED: 1}
    scanned = {row.image_id: row for row in index.scan()}
    assert scanned == {row.image_id: row.without_vector() for row in rows}
    assert all(row.vector is None for row in scanned.values())


def test_a_thousand_rows_at_once(index: VectorIndex) -> None:
    random = np.random.default_rng(0)
    rows = [live(f"i{n}", n, towards(*random.normal(size=DIMENSION))) for n in range(1000)]
    assert all(written.applied for written in index.write(rows))
    assert index.count()[RowState.LIVE] == 1000
    assert len(index.get([row.image_id for row in rows])) == 1000
    again = index.write([replace(row, version=Version(1, 0, 5000)) for row in rows])
    assert [each.previous for each in again] == rows
    assert index.count()[RowState.LIVE] == 1000
    [hits] = index.search([Query(towards(1, 2), 1000)])
    assert len({hit.row.image_id for hit in hits}) == 1000


def test_many_small_writes_stay_one_row_each(index: VectorIndex) -> None:
    for offset in range(60):
        index.write([live("same", offset), live(f"i{offset}", offset)])
    assert index.count()[RowState.LIVE] == 61
    assert index.get(["same"])["same"].version.offset == 59


def test_what_must_not_be_asked_is_not(index: VectorIndex) -> None:
    nan = towards(1)
    nan[3] = np.nan
    wrong: list[Any] = [
        nan,
        np.zeros(DIMENSION, np.float32),
        towards(1) * 2,
        towards(1)[:5],
        towards(1).astype(np.float64),
    ]
    for vector in wrong:
        with pytest.raises(ValueError, match="vector"):
            index.search([Query(vector, 1)])
    with pytest.raises(ValueError, match="twice"):
        index.write([live("a", 1), live("a", 2)])
    assert index.count()[RowState.LIVE] == 0


def test_readers_and_a_writer_side_by_side(index: VectorIndex) -> None:
    index.write([live(f"i{n}", 0, towards(1, n)) for n in range(50)])
    done = threading.Event()

    def read() -> int:
        rounds = 0
        while not done.is_set():
            [hits] = index.search([Query(towards(1), 100)])
            ids = [hit.row.image_id for hit in hits]
            assert len(ids) == len(set(ids))
            assert index.get(["i0"])["i0"].state is RowState.LIVE
            rounds += 1
        return rounds

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        try:
            for offset in range(1, 30):
                index.write([live(f"i{n}", offset, towards(1, n, offset)) for n in range(10)])
        finally:
            done.set()
        assert all(reader.result() > 0 for reader in readers)
    assert index.count()[RowState.LIVE] == 50
    assert {row.version.offset for row in index.get([f"i{n}" for n in range(10)]).values()} == {29}


def _found(index: VectorIndex) -> set[str]:
    [hits] = index.search([Query(towards(1), 100)])
    return {hit.row.image_id for hit in hits}


def test_rows_are_removed_at_the_versions_named_and_no_other(index: VectorIndex) -> None:
    quoted = 'it\'s "quoted" / 猫'
    index.write([live("a", 1), live(quoted, 2), deleted("c", 3), live("d", 4)])
    index.remove({"a": Version(1, 0, 1), quoted: Version(1, 0, 2), "c": Version(1, 0, 3)})
    index.remove({"d": Version(1, 0, 3), "unknown": Version(1, 0, 1)})
    assert [row.image_id for row in index.scan()] == ["d"]
    assert index.write([live("a", 0)])[0].applied
