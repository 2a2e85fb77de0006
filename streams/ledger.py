"""What the log says beside what the collection holds, in a database on disk.

A private SQLite file without a name, which is gone when it is closed: comparing a hundred
million pictures takes disk, not memory.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


#: The words of `Kind` and `RowState`; '' where both sides agree. A deleted row whose key is no
#: longer in the log has expired: compaction removes a delete only when `delete.retention.ms` has
#: passed, so nothing can bring that picture back.
_SCHEMA = """
CREATE TABLE log (image_id TEXT PRIMARY KEY, epoch INTEGER, partition INTEGER, offset INTEGER,
    state TEXT, sha256 TEXT) WITHOUT ROWID;
CREATE TABLE rows (image_id TEXT PRIMARY KEY, epoch INTEGER, partition INTEGER, offset INTEGER,
    state TEXT, sha256 TEXT, reason TEXT) WITHOUT ROWID;
CREATE TABLE doubts (image_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE VIEW sides AS
    SELECT l.image_id, l.epoch AS log_epoch, l.partition AS log_partition,
        l.offset AS log_offset, l.state AS log_state, l.sha256 AS log_sha256,
        r.epoch, r.partition, r.offset, r.state, r.sha256
    FROM log AS l LEFT JOIN rows AS r ON r.image_id = l.image_id
    UNION ALL
    SELECT r.image_id, NULL, NULL, NULL, NULL, NULL,
        r.epoch, r.partition, r.offset, r.state, r.sha256
    FROM rows AS r LEFT JOIN log AS l ON l.image_id = r.image_id WHERE l.image_id IS NULL;
CREATE VIEW compared AS
    SELECT image_id, CASE
            WHEN state IS NULL THEN 'missing'
            WHEN log_state IS NULL AND state = 'deleted' THEN 'expired'
            WHEN log_state IS NULL THEN 'extra'
            WHEN (epoch, offset) > (log_epoch, log_offset) THEN 'ahead'
            WHEN (epoch, offset, partition) != (log_epoch, log_offset, log_partition) THEN 'stale'
            WHEN state = 'dead_lettered' THEN ''
            WHEN state != log_state THEN 'wrong_state'
            WHEN state = 'live' AND log_sha256 NOT IN ('', sha256) THEN 'wrong_content'
            ELSE ''
        END AS kind,
        log_epoch, log_partition, log_offset, epoch, partition, offset
    FROM sides;
CREATE VIEW differing AS SELECT * FROM compared WHERE kind NOT IN ('', 'expired');
"""
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
            "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (r.image_id, *r.version, str(r.state), r.sha256, r.reason and str(r.reason))
                for r in rows
            ),
        )

    def forget_rows(self, image_ids: Iterable[str]) -> None:
        """The collection holds no such rows any more, or they are about to be read again."""
        self._insert("DELETE FROM rows WHERE image_id = ?", ((each,) for each in image_ids))

    def follow(self, ends: Mapping[int, int]) -> None:
        """Believe rows that are ahead of what was read of the log, but not of its `ends`."""
        self._insert(
            "UPDATE log SET (epoch, offset, state, sha256) = (SELECT r.epoch, r.offset, r.state,"
            " '' FROM rows AS r WHERE r.image_id = log.image_id) WHERE image_id IN (SELECT image_id"
            " FROM compared WHERE kind = ? AND epoch = log_epoch AND partition = log_partition"
            " AND partition = ? AND offset < ?)",
            ((Kind.AHEAD, *end) for end in ends.items()),
        )

    def doubt_differences(self) -> int:
        """Doubt every id that differs now, and no other; how many there are."""
        self._database.execute("DELETE FROM doubts")
        self._database.execute("INSERT INTO doubts SELECT image_id FROM differing")
        return self._count("SELECT count(*) FROM doubts")

    def is_doubted(self, image_id: str) -> bool:
        """Whether that id is among the doubts."""
        return bool(self._count("SELECT count(*) FROM doubts WHERE image_id = ?", image_id))

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
            "SELECT * FROM differing WHERE kind IN (SELECT value FROM json_each(?))"
            " ORDER BY log_partition, log_offset",
            [json.dumps(kinds)],
        )
        for image_id, kind, *versions in cursor:
            yield Difference(image_id, Kind(kind), _version(versions[:3]), _version(versions[3:]))

    def counts(self) -> dict[Kind, int]:
        """How many differences there are of each kind."""
        counted = self._database.execute("SELECT kind, count(*) FROM differing GROUP BY kind")
        return {Kind(kind): number for kind, number in counted}

    def expired_deletes(self) -> dict[str, Version]:
        """Some deleted rows that the log has forgotten; none where none are left."""
        cursor = self._database.execute(
            "SELECT image_id, epoch, partition, offset FROM compared WHERE kind = 'expired'"
            " LIMIT ?",
            [_BATCH],
        )
        return {image_id: Version(*version) for image_id, *version in cursor}

    def deleted(self) -> Iterator[str]:
        """The ids whose rows are deleted ones."""
        for (image_id,) in self._database.execute(
            "SELECT image_id FROM rows WHERE state = ?", [RowState.DELETED]
        ):
            yield image_id

    def dead_letters(self) -> dict[str, int]:
        """How many rows are dead-lettered, by the code of the reason."""
        counted = self._database.execute(
            "SELECT coalesce(reason, ''), count(*) FROM rows WHERE state = ? GROUP BY reason",
            [RowState.DEAD_LETTERED],
        )
        return dict(counted.fetchall())

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

    def _count(self, statement: str, *values: str) -> int:
        return int(self._database.execute(statement, values).fetchone()[0])


def _version(parts: Sequence[int | None]) -> Version | None:
    epoch, partition, offset = parts
    if epoch is None or partition is None or offset is None:
        return None
    return Version(epoch, partition, offset)
