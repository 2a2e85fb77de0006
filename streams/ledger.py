"""What the log says beside what the collection holds, in a database on disk.

A private SQLite file without a name, which is gone when it is closed: comparing a hundred
million pictures takes disk, not memory.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from schemas.identity import Version
from search.port import RowState, StoredImage


class Kind(StrEnum):
    """How a picture's row may differ from what the log says of it."""

    MISSING = "missing"  # no row
    STALE = "stale"  # the row is of an earlier record
    AHEAD = "ahead"  # the row is of a record that the log doesn't have
    WRONG_STATE = "wrong_state"  # of the right record, but not what that record asks for
    WRONG_CONTENT = "wrong_content"  # of the right record, but of another picture than it names
    EXTRA = "extra"  # a row whose picture the log doesn't know


class Expected(NamedTuple):
    """What the log's latest record of an image id asks for; `sha256` is empty where it is silent.

    Where the picture itself turns out to be bad, a dead-lettered row is right as well.
    """

    image_id: str
    version: Version
    state: RowState
    sha256: str = ""


@dataclass(frozen=True)
class Difference:
    """One picture whose row is not what the log says. Versions are (epoch, partition, offset)."""

    image_id: str
    kind: Kind
    expected: Version | None
    found: Version | None


_SIDE = "(image_id TEXT PRIMARY KEY, epoch INTEGER, partition INTEGER, offset INTEGER," \
    " state TEXT, sha256 TEXT) WITHOUT ROWID"
#: A deleted row whose key is no longer in the log has expired: compaction removes a delete only
#: when `delete.retention.ms` has passed, so nothing can bring that picture back.
_KIND = f"""CASE
    WHEN r.image_id IS NULL THEN '{Kind.MISSING}'
    WHEN l.image_id IS NULL AND r.state = '{RowState.DELETED}' THEN 'expired'
    WHEN l.image_id IS NULL THEN '{Kind.EXTRA}'
    WHEN (r.epoch, r.offset) > (l.epoch, l.offset) THEN '{Kind.AHEAD}'
    WHEN (r.epoch, r.offset, r.partition) != (l.epoch, l.offset, l.partition) THEN '{Kind.STALE}'
    WHEN r.state = '{RowState.DEAD_LETTERED}' THEN NULL
    WHEN r.state != l.state THEN '{Kind.WRONG_STATE}'
    WHEN l.sha256 NOT IN ('', r.sha256) AND r.state = '{RowState.LIVE}' THEN '{Kind.WRONG_CONTENT}'
END"""
_SCHEMA = f"""
CREATE TABLE log {_SIDE};
CREATE TABLE rows {_SIDE};
CREATE TABLE doubts (image_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE VIEW compared AS
    SELECT l.image_id, {_KIND} AS kind, l.epoch AS log_epoch, l.partition AS log_partition,
        l.offset AS log_offset, r.epoch, r.partition, r.offset
    FROM log AS l LEFT JOIN rows AS r ON r.image_id = l.image_id
    UNION ALL
    SELECT r.image_id, {_KIND}, NULL, NULL, NULL, r.epoch, r.partition, r.offset
    FROM rows AS r LEFT JOIN log AS l ON l.image_id = r.image_id WHERE l.image_id IS NULL;
"""
_DIFFERS = "kind != 'expired'"  # which is not so where kind is NULL: they agree
_BATCH = 500


class Ledger:
    """The two sides, compared. Not safe to share between threads."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Let go of the disk."""
        self._database.close()

    def note_log(self, records: Iterable[Expected]) -> None:
        """Add what records of the log ask for; the latest of an id counts."""
        self._insert(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (image_id) DO UPDATE SET"
            " epoch = excluded.epoch, partition = excluded.partition, offset = excluded.offset,"
            " state = excluded.state, sha256 = excluded.sha256"
            " WHERE (excluded.epoch, excluded.offset) >= (epoch, offset)",
            ((r.image_id, *r.version, str(r.state), r.sha256) for r in records),
        )

    def note_rows(self, rows: Iterable[StoredImage]) -> None:
        """Add rows of the collection; one read again takes the place of what it was."""
        self._insert(
            "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?)",
            ((r.image_id, *r.version, str(r.state), r.sha256) for r in rows),
        )

    def forget_rows(self, image_ids: Sequence[str]) -> None:
        """The collection holds no such rows any more, or they are about to be read again."""
        self._insert("DELETE FROM rows WHERE image_id = ?", ((each,) for each in image_ids))

    def doubt_differences(self) -> int:
        """Doubt every id that differs now, and no other; how many there are."""
        self._database.execute("DELETE FROM doubts")
        self._database.execute(
            f"INSERT INTO doubts SELECT image_id FROM compared WHERE {_DIFFERS}"
        )
        return self._count("SELECT count(*) FROM doubts")

    def doubts(self) -> Iterator[list[str]]:
        """The doubted ids, some at a time."""
        after = ""
        while some := self._database.execute(
            "SELECT image_id FROM doubts WHERE image_id > ? ORDER BY image_id LIMIT ?",
            (after, _BATCH),
        ).fetchall():
            yield [image_id for (image_id,) in some]
            (after,) = some[-1]

    def differences(self, kinds: Sequence[Kind] = tuple(Kind)) -> Iterator[Difference]:
        """The ids whose row isn't what the log says, in order of where their records stand."""
        cursor = self._database.execute(
            f"SELECT * FROM compared WHERE kind IN ({', '.join('?' * len(kinds))})"
            " ORDER BY log_partition, log_offset",
            [str(kind) for kind in kinds],
        )
        for image_id, kind, *versions in cursor:
            yield Difference(image_id, Kind(kind), _version(versions[:3]), _version(versions[3:]))

    def counts(self) -> dict[Kind, int]:
        """How many differences there are of each kind."""
        counted = self._database.execute(
            f"SELECT kind, count(*) FROM compared WHERE {_DIFFERS} GROUP BY kind"
        )
        return {Kind(kind): number for kind, number in counted}

    def expired_deletes(self) -> dict[str, Version]:
        """Some deleted rows that the log has forgotten, by image id; none where none are left."""
        cursor = self._database.execute(
            "SELECT image_id, epoch, partition, offset FROM compared WHERE kind = 'expired'"
            f" LIMIT {_BATCH}"
        )
        return {image_id: Version(*version) for image_id, *version in cursor}

    def images(self) -> int:
        """How many image ids the log knows."""
        return self._count("SELECT count(*) FROM log")

    def rows(self) -> int:
        """How many rows the collection holds."""
        return self._count("SELECT count(*) FROM rows")

    def _insert(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        self._database.execute("BEGIN")
        self._database.executemany(statement, values)
        self._database.execute("COMMIT")

    def _count(self, statement: str) -> int:
        return int(self._database.execute(statement).fetchone()[0])


def _version(parts: Sequence[int | None]) -> Version | None:
    epoch, partition, offset = parts
    if epoch is None or partition is None or offset is None:
        return None
    return Version(epoch, partition, offset)
