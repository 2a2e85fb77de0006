"""The comparison of log and collection, by itself."""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pixtide.schemas.errors import ReasonCode
from pixtide.schemas.identity import Version
from pixtide.search.port import RowState, StoredImage
from pixtide.streams.generations.comparison_store import ComparisonStore, Difference, Expected, Kind
from pixtide.streams.originals.store import Stored

LIVE, DELETED, DEAD_LETTERED = RowState
UNSEEN, UNREAD = Kind.NOT_FOUND_BY_VECTOR, Kind.NOT_FOUND_BY_WORDS


@pytest.fixture
def ledger() -> Iterator[ComparisonStore]:
    with contextlib.closing(ComparisonStore()) as made:
        yield made


def asked(offset: int, state: RowState = LIVE, sha256: str = "") -> Expected:
    return Expected("a", Version(1, 0, offset), state, sha256)


def row(offset: int, state: RowState = LIVE, sha256: str = "x", image_id: str = "a") -> StoredImage:
    return StoredImage(image_id, state, Version(1, 0, offset), sha256=sha256)


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
    ledger: ComparisonStore, log: list[Expected], rows: list[StoredImage], kind: Kind | None
) -> None:
    ledger.note_log(log)
    ledger.note_rows(rows)
    assert [difference.kind for difference in ledger.differences()] == [kind] * (kind is not None)
    assert ledger.counts() == ({kind: 1} if kind else {})
    assert ledger.doubt_differences() == (kind is not None)
    assert list(ledger.doubts()) == [["a"]] * (kind is not None)


def test_a_row_read_again_takes_the_place_of_what_it_was(ledger: ComparisonStore) -> None:
    ledger.note_log([asked(2)])
    ledger.note_rows([row(1)])
    ledger.note_rows([row(2)])
    assert ledger.counts() == {}
    ledger.forget_rows(["a"])
    assert ledger.counts() == {Kind.MISSING: 1}


def test_deletes_that_the_log_has_forgotten_have_expired(ledger: ComparisonStore) -> None:
    ledger.note_rows([row(1, DELETED)])
    assert ledger.expired_deletes() == {"a": Version(1, 0, 1)}
    ledger.note_log([asked(1, DELETED)])
    assert ledger.expired_deletes() == {}


def test_doubts_come_some_at_a_time_and_all_of_them(ledger: ComparisonStore) -> None:
    names = [f"{n:04}" for n in range(1201)]
    ledger.note_log(Expected(name, Version(1, 0, n), LIVE) for n, name in enumerate(names))
    assert ledger.doubt_differences() == 1201
    pages = list(ledger.doubts())
    assert [name for page in pages for name in page] == names
    assert max(map(len, pages)) <= 500


def test_a_row_ahead_of_what_was_read_is_believed_below_the_ends_of_the_log(
    ledger: ComparisonStore,
) -> None:
    ledger.note_log([asked(1, sha256="y")])
    ledger.note_rows([row(5)])
    ledger.follow({0: 5, 1: 99})
    assert ledger.counts() == {Kind.AHEAD: 1}
    ledger.follow({0: 6})
    assert ledger.counts() == {}


def test_dead_letters_are_counted_by_reason(ledger: ComparisonStore) -> None:
    gone = replace(row(1, DEAD_LETTERED), reason=ReasonCode.SOURCE_GONE)
    ledger.note_rows([gone, replace(gone, image_id="b"), replace(row(2), image_id="c")])
    assert ledger.dead_letters() == {"SOURCE_GONE": 2}


STORE = "file:///store"
KEYS = [f"{uuid.uuid5(uuid.NAMESPACE_URL, str(n))}/{n:064x}.jpg" for n in range(6)]
AT = datetime(2026, 3, 4, 12, 0, 0, 5, tzinfo=UTC)


def stored(number: int, hours: float = 2) -> Stored:
    """A file of the store, put so many hours ago."""
    return Stored(KEYS[number], f"{STORE}/{KEYS[number]}", AT - timedelta(hours=hours))


@pytest.fixture
def with_store() -> Iterator[ComparisonStore]:
    def original_of(uri: str) -> str:
        return uri.removeprefix(STORE + "/") if uri.startswith(STORE + "/") else ""

    with contextlib.closing(ComparisonStore(original_of)) as made:
        yield made


def named(image_id: str, uri: str, state: RowState = LIVE) -> StoredImage:
    return StoredImage(image_id, state, Version(1, 0, 1), uri=uri)


def test_rows_whose_original_is_missing(with_store: ComparisonStore) -> None:
    with_store.note_log(Expected(name, Version(1, 0, 1), LIVE) for name in "abc")
    with_store.note_rows(
        [
            named("a", stored(0).uri),
            named("b", stored(1).uri),
            named("c", "https://elsewhere.example/c.jpg"),
        ]
    )
    with_store.note_originals([stored(0)], AT)
    assert with_store.counts() == {Kind.ORIGINAL_MISSING: 1}
    assert [d.image_id for d in with_store.differences()] == ["b"]
    assert with_store.originals_of(["b", "c"]) == [KEYS[1]]
    with_store.note_originals([stored(1, 0)], AT)
    assert with_store.counts() == {}
    with_store.forget_originals([KEYS[0]])
    assert with_store.counts() == {Kind.ORIGINAL_MISSING: 1}


def test_originals_that_nothing_names_are_left(with_store: ComparisonStore) -> None:
    """A live row names one, a dead letter's record and another generation one each."""
    letter = Expected("b", Version(1, 0, 1), LIVE, "", stored(1).uri)
    with_store.note_log([Expected("a", Version(1, 0, 1), LIVE), letter])
    with_store.note_rows([named("a", stored(0).uri), named("b", "", DEAD_LETTERED)])
    with_store.note_originals([stored(n) for n in range(5)], AT - timedelta(hours=1))
    with_store.note_originals([stored(5, 0.5)], AT - timedelta(hours=1))  # maybe on its way
    odd = Stored("dead-letters/" + "0" * 64, f"{STORE}/x", AT - timedelta(days=9))
    with_store.note_originals([odd, Stored("clock", f"{STORE}/clock", AT)], AT)
    with_store.note_named([stored(2).uri, "https://elsewhere.example/c.jpg", ""])
    with_store.note_rows([named("c", f"s3://another-name-of-the-store/{KEYS[3]}")])
    assert [*with_store.left()] == [(KEYS[4], stored(4).modified)]
    assert with_store.count_left() == 1
    with_store.note_rows([named("a", "", DELETED)])
    with_store.note_log([Expected("b", Version(1, 0, 2), DELETED)])
    assert {key for key, _ in with_store.left()} == {KEYS[0], KEYS[1], KEYS[4]}
    with_store.forget_originals(KEYS)
    assert with_store.count_left() == 0


def test_what_is_left_comes_some_at_a_time_and_all_of_it(with_store: ComparisonStore) -> None:
    keys = [f"{uuid.uuid4()}/{n:064x}.jpg" for n in range(1201)]
    with_store.note_originals((Stored(key, "", AT) for key in keys), AT + timedelta(hours=1))
    left = with_store.left()
    first = [next(left) for _ in range(500)]
    with_store.forget_originals(key for key, _ in first)  # as a sweep does
    assert sorted(key for key, _ in [*first, *left]) == sorted(keys)


def test_rows_that_searches_do_not_find_are_told_while_they_stand(ledger: ComparisonStore) -> None:
    ledger.note_rows(row(n, image_id=f"{n:03}") for n in range(120))
    assert sum(map(len, ledger.some_live(None))) == 120
    assert sum(map(len, ledger.some_live(70))) == 70
    at = Version(1, 0, 7)
    missed = [Difference("007", kind, at, at) for kind in (UNSEEN, UNREAD)]
    ledger.note_unfound([*missed, Difference("008", UNREAD, at, at)])
    assert ledger.count_unfound() == {UNSEEN: 1, UNREAD: 1}
    assert [d.kind for d in ledger.unfound_rows()] == [UNSEEN, UNREAD]
    assert list(ledger.unfound()) == [["007", "008"]]
    ledger.forget_unfound(["007", "008"])
    assert ledger.count_unfound() == {}
