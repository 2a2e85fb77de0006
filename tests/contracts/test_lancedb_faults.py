"""What the LanceDB adapter does with several writers, a full disk, and small writes."""

import multiprocessing
import os
import resource
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from pixtide.schemas.errors import TransientError
from pixtide.search.lancedb import index as lancedb_index
from pixtide.search.lancedb import readers as lancedb_readers
from pixtide.search.lancedb.catalog import LanceCatalog
from pixtide.search.lancedb.index import LanceIndex
from pixtide.search.lancedb.readers import Readers
from pixtide.search.port import RowState
from tests.contracts.samples import generation, live

_ROUNDS = 30
_IDS = 40


@pytest.fixture
def catalog(tmp_path: Path) -> LanceCatalog:
    return LanceCatalog(folder=tmp_path / "index")


@pytest.fixture
def index(catalog: LanceCatalog) -> LanceIndex:
    catalog.create(generation())
    return catalog.open(generation())


def write_rounds(folder: Path, writer: int) -> None:
    """Write all ids again and again: even offsets for one process, odd ones for the other."""
    index = LanceCatalog(folder=folder).open(generation())
    for turn in range(_ROUNDS):
        # Each goes through its versions in an order of its own.
        offset = 2 * (turn * 7 % _ROUNDS) + writer
        index.write([live(f"i{n}", offset, caption=f"{writer}") for n in range(_IDS)])


@pytest.mark.fault("two writers on the embedded store")
def test_two_processes_that_write_the_same_ids(index: LanceIndex, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write_rounds, args=(tmp_path / "index", n)) for n in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    rows = list(index.scan())
    assert set(Counter(row.image_id for row in rows).values()) == {1}
    assert len(rows) == _IDS
    assert {(row.version.offset, row.caption) for row in rows} == {(2 * _ROUNDS - 1, "1")}


def test_a_reader_sees_what_another_process_wrote(index: LanceIndex, tmp_path: Path) -> None:
    assert index.count()[RowState.LIVE] == 0
    LanceCatalog(folder=tmp_path / "index").open(generation()).write([live("a")])
    assert index.count()[RowState.LIVE] == 1
    assert set(index.get(["a"])) == {"a"}


def test_a_writer_that_never_lets_go(
    catalog: LanceCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lancedb_index, "_LOCK_TIMEOUT_S", 0.2)
    catalog.create(generation())
    index = catalog.open(generation())
    lock = tmp_path / "index" / "locks" / f"{generation().collection}.lock"
    with FileLock(lock), pytest.raises(TransientError, match="lock"):
        index.write([live("a")])
    assert index.write([live("a")])[0].applied


def fill_up(folder: Path) -> None:
    """In a process whose files may not grow: what a full disk does, without one."""
    index = LanceCatalog(folder=folder).open(generation())
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    with pytest.raises(TransientError):
        index.write([live(f"i{n}", n, caption="x" * 1000) for n in range(100)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert index.count()[RowState.LIVE] == 0
    assert all(written.applied for written in index.write([live("a"), live("b")]))


@pytest.mark.fault("the disk of the embedded store is full")
def test_a_full_disk_is_waited_out(index: LanceIndex, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=fill_up, args=(tmp_path / "index",)
    )
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert index.count()[RowState.LIVE] == 2


def test_small_writes_leave_few_files(index: LanceIndex) -> None:
    for offset in range(100):
        index.write([live("same", offset), live(f"i{offset}", offset)])
    stats = index._table.stats()
    assert stats["fragment_stats"]["num_fragments"] <= 30  # type: ignore[index]
    assert index.count()[RowState.LIVE] == 101


def test_a_failed_compaction_fails_no_write(
    index: LanceIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("lance error: LanceError(IO): No space left on device")

    monkeypatch.setattr(index._table, "optimize", fail)
    for offset in range(40):
        assert index.write([live("same", offset)])[0].applied
    assert index.get(["same"])["same"].version.offset == 39


@pytest.mark.fault("an embedded index is written to while it is read for long")
def test_a_scan_sees_each_row_once_however_long_it_takes(
    index: LanceIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lancedb_readers, "KEEP_OLD_FILES", timedelta(milliseconds=1))
    for first in range(40):  # too many files to be read ahead
        index.write([live(f"i{first}_{n}", n, caption="x" * 200) for n in range(200)])
    expected = {row.image_id for row in index.scan()}
    assert len(expected) == 8_000
    scan = index.scan()
    seen = [next(scan).image_id]
    files = set(tmp_path.rglob("*.lance/data/*"))
    for n in range(40):  # replaces all files by one, again and again
        index.write([live(f"new{n}", 1)])
    assert len(set(tmp_path.rglob("*.lance/data/*"))) > len(files)
    seen += [row.image_id for row in scan]
    assert (len(seen), set(seen)) == (len(expected), expected)
    assert not list(tmp_path.rglob("*.readers/*"))
    for n in range(60):
        index.write([live(f"later{n}", 1)])
    assert not files & set(tmp_path.rglob("*.lance/data/*")), "nobody reads them any more"


def test_a_reader_that_has_died_holds_no_files(tmp_path: Path) -> None:
    readers = Readers(tmp_path / "readers")
    soon = readers.keep()
    with readers.reading() as go_on:
        assert readers.keep() > soon
        [mine] = (tmp_path / "readers").iterdir()
        os.utime(mine, (1, 1))
        assert readers.keep() == soon, "it said nothing for long"
        go_on()
        assert readers.keep() > soon
    assert readers.keep() == soon
    (tmp_path / "readers").rmdir()
    (tmp_path / "readers").write_text("where no folder can be")
    with readers.reading():
        assert readers.keep() == soon, "a disk for reading alone"
