"""The comparison of log and collection, by itself."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from schemas.errors import ReasonCode
from schemas.identity import Version
from search.port import RowState, StoredImage
from streams.ledger import Expected, Kind, Ledger

LIVE, DELETED, DEAD_LETTERED = RowState


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with contextlib.closing(Ledger()) as made:
        yield made


def asked(offset: int, state: RowState = LIVE, sha256: str = "") -> Expected:
    return Expected("a", Version(1, 0, offset), state, sha256)


def row(offset: int, state: RowState = LIVE, sha256: str = "x") -> StoredImage:
    return StoredImage("a", state, Version(1, 0, offset), sha256=sha256)


@pytest.mark.parametrize(
    ("log", "rows", "kind"),
    [
        ([asked(1)], [row(1)], None),
        ([asked(1, sha256="x")], [row(1)], None),
        ([asked(1), asked(2, DELETED)], [row(2, DELETED)], None),
        ([asked(2, DELETED), asked(1)], [row(2, DELETED)], None),
        ([asked(1)], [row(1, DEAD_LETTERED, "")], None),
        ([asked(1, sha256="y")], [row(1, DEAD_LETTERED, "")], None),
        ([asked(1, DEAD_LETTERED)], [row(1, DEAD_LETTERED)], None),
        ([], [row(1, DELETED)], None),
        ([asked(1)], [], Kind.MISSING),
        ([asked(2)], [row(1)], Kind.STALE),
        ([asked(2)], [row(1, DEAD_LETTERED)], Kind.STALE),
        ([asked(1)], [row(2)], Kind.AHEAD),
        ([asked(1)], [row(1, DELETED)], Kind.WRONG_STATE),
        ([asked(1, DELETED)], [row(1)], Kind.WRONG_STATE),
        ([asked(1, DEAD_LETTERED)], [row(1)], Kind.WRONG_STATE),
        ([asked(1, sha256="y")], [row(1)], Kind.WRONG_CONTENT),
        ([], [row(1)], Kind.EXTRA),
        ([], [row(1, DEAD_LETTERED)], Kind.EXTRA),
    ],
)
def test_each_kind(
    ledger: Ledger, log: list[Expected], rows: list[StoredImage], kind: Kind | None
) -> None:
    ledger.note_log(log)
    ledger.note_rows(rows)
    assert [difference.kind for difference in ledger.differences()] == [kind] * (kind is not None)
    assert ledger.counts() == ({kind: 1} if kind else {})
    assert ledger.doubt_differences() == (kind is not None)
    assert list(ledger.doubts()) == [["a"]] * (kind is not None)


def test_a_row_read_again_takes_the_place_of_what_it_was(ledger: Ledger) -> None:
    ledger.note_log([asked(2)])
    ledger.note_rows([row(1)])
    ledger.note_rows([row(2)])
    assert ledger.counts() == {}
    ledger.forget_rows(["a"])
    assert ledger.counts() == {Kind.MISSING: 1}


def test_deletes_that_the_log_has_forgotten_have_expired(ledger: Ledger) -> None:
    ledger.note_rows([row(1, DELETED)])
    assert ledger.expired_deletes() == {"a": Version(1, 0, 1)}
    ledger.note_log([asked(1, DELETED)])
    assert ledger.expired_deletes() == {}


def test_doubts_come_some_at_a_time_and_all_of_them(ledger: Ledger) -> None:
    names = [f"{n:04}" for n in range(1201)]
    ledger.note_log(Expected(name, Version(1, 0, n), LIVE) for n, name in enumerate(names))
    assert ledger.doubt_differences() == 1201
    pages = list(ledger.doubts())
    assert [name for page in pages for name in page] == names
    assert max(map(len, pages)) <= 500


def test_a_row_ahead_of_what_was_read_is_believed_below_the_ends_of_the_log(
    ledger: Ledger,
) -> None:
    ledger.note_log([asked(1, sha256="y")])
    ledger.note_rows([row(5)])
    ledger.follow({0: 5, 1: 99})
    assert ledger.counts() == {Kind.AHEAD: 1}
    ledger.follow({0: 6})
    assert ledger.counts() == {}


def test_dead_letters_are_counted_by_reason(ledger: Ledger) -> None:
    gone = replace(row(1, DEAD_LETTERED), reason=ReasonCode.SOURCE_GONE)
    ledger.note_rows([gone, replace(gone, image_id="b"), replace(row(2), image_id="c")])
    assert ledger.dead_letters() == {"SOURCE_GONE": 2}
