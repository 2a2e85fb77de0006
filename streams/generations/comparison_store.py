"""The log's content and the collection's content side by side, in a database on disk.

It is a private SQLite file without a name, which disappears when it is closed. So comparing a
hundred million pictures takes disk, not memory.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from pixtide.schemas.identity import Version, original_key_in
from pixtide.search.port import RowState, StoredImage
from pixtide.streams.originals.store import Stored


class Kind(StrEnum):
    """How a picture's row may differ from what the log says."""

    MISSING = "missing"  # no row
    STALE = "stale"  # the row is of an earlier record
    AHEAD = "ahead"  # the row is of a record that the log doesn't have
    WRONG_STATE = "wrong_state"  # of the right record, but not in the state that it asks for
    WRONG_CONTENT = "wrong_content"  # of the right record, but not of the picture that it names
    EXTRA = "extra"  # a row whose picture isn't in the log
    ORIGINAL_MISSING = "original_missing"  # the row is right, but its original is gone
    ORIGINAL_LEFT = "original_left"  # an original that no row and no latest record names
    NOT_FOUND_BY_VECTOR = "not_found_by_vector"  # a right row that a search for it doesn't find
    NOT_FOUND_BY_WORDS = "not_found_by_words"  # the same, in a search for its caption and tags


#: Kinds that say nothing about the rows.
OF_THE_STORE = frozenset({Kind.ORIGINAL_MISSING, Kind.ORIGINAL_LEFT})


class Expected(NamedTuple):
    """What the latest record of an image id asks for.

    `sha256` is empty if the record has none. `uri` is where the record says that its picture is.

    If the picture itself turns out to be bad, a dead-lettered row is right, too.
    """

    image_id: str
    version: Version
    state: RowState
    sha256: str = ""
    uri: str = ""


@dataclass(frozen=True)
class Difference:
    """One picture whose row isn't what the log says. Versions are (epoch, partition, offset).

    For an original that is left over, `image_id` is its key in the store.
    """

    image_id: str
    kind: Kind
    expected: Version | None
    found: Version | None


#: The values of `Kind` and `RowState`; '' if both sides agree. A deleted row whose key is no longer
#: in the log has expired: compaction removes a delete only after `delete.retention.ms`, so nothing
#: can bring that picture back.
_SCHEMA = """
CREATE TABLE log (image_id TEXT PRIMARY KEY, epoch INTEGER, partition INTEGER, offset INTEGER,
    state TEXT, sha256 TEXT, original TEXT) WITHOUT ROWID;
CREATE TABLE rows (image_id TEXT PRIMARY KEY, epoch INTEGER, partition INTEGER, offset INTEGER,
    state TEXT, sha256 TEXT, reason TEXT, original TEXT, is_ours INTEGER) WITHOUT ROWID;
CREATE TABLE doubts (image_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE originals (key TEXT PRIMARY KEY, modified TEXT, is_old INTEGER) WITHOUT ROWID;
CREATE TABLE named (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE unfound (image_id TEXT, kind TEXT, epoch INTEGER, partition INTEGER, offset INTEGER,
    PRIMARY KEY (image_id, kind)) WITHOUT ROWID;
CREATE INDEX log_original ON log (original) WHERE original != '';
CREATE INDEX row_original ON rows (original) WHERE original != '';
CREATE VIEW lost AS SELECT key, modified FROM originals AS o WHERE is_old
    AND NOT EXISTS (SELECT * FROM rows AS r
        WHERE r.original = o.key AND r.original != '' AND r.state = 'live')
    AND NOT EXISTS (SELECT * FROM log AS l WHERE l.original = o.key AND l.original != '')
    AND NOT EXISTS (SELECT * FROM named AS n WHERE n.key = o.key);
CREATE VIEW sides AS
    SELECT l.image_id, l.epoch AS log_epoch, l.partition AS log_partition,
        l.offset AS log_offset, l.state AS log_state, l.sha256 AS log_sha256,
        r.epoch, r.partition, r.offset, r.state, r.sha256, r.original, r.is_ours
    FROM log AS l LEFT JOIN rows AS r ON r.image_id = l.image_id
    UNION ALL
    SELECT r.image_id, NULL, NULL, NULL, NULL, NULL,
        r.epoch, r.partition, r.offset, r.state, r.sha256, r.original, r.is_ours
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
            WHEN state = 'live' AND is_ours
                AND NOT EXISTS (SELECT * FROM originals AS o WHERE o.key = original)
                THEN 'original_missing'
            ELSE ''
        END AS kind,
        log_epoch, log_partition, log_offset, epoch, partition, offset
    FROM sides;
CREATE VIEW differing AS SELECT * FROM compared WHERE kind NOT IN ('', 'expired');
"""
_BATCH = 500
_SEARCHED = 50


class ComparisonStore:
    """Both sides, compared, and the originals. Not safe to share between threads.

    Args:
        original_of: returns the key of the original that a URI names; empty if it isn't in our
            store, or if originals are not checked.
    """

    def __init__(self, original_of: Callable[[str], str] = lambda _: "") -> None:
        self._original_of = original_of
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Free the disk space."""
        self._database.close()

    def note_log(self, records: Iterable[Expected]) -> None:
        """Add what records of the log ask for; the latest record of an id counts."""
        self._insert(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (image_id) DO UPDATE SET"
            " epoch = excluded.epoch, partition = excluded.partition, offset = excluded.offset,"
            " state = excluded.state, sha256 = excluded.sha256, original = excluded.original"
            " WHERE (excluded.epoch, excluded.offset) >= (epoch, offset)",
            ((r.image_id, *r.version, str(r.state), r.sha256, self._named(r.uri)) for r in records),
        )

    def note_rows(self, rows: Iterable[StoredImage]) -> None:
        """Add rows of the collection; a row that is read again replaces the earlier one."""
        self._insert(
            "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    *(r.image_id, *r.version, str(r.state), r.sha256),
                    *(r.reason and str(r.reason), self._named(r.uri)),
                    bool(self._original_of(r.uri)),
                )
                for r in rows
            ),
        )

    def forget_rows(self, image_ids: Iterable[str]) -> None:
        """Remove these rows: the collection no longer has them, or they will be read again."""
        self._insert("DELETE FROM rows WHERE image_id = ?", ((each,) for each in image_ids))

    def note_originals(self, files: Iterable[Stored], old: datetime) -> None:
        """Add files of the store; those stored before `old` may be left over."""
        self._insert(
            "INSERT OR REPLACE INTO originals VALUES (?, ?, ?)",
            (
                (
                    f.key,
                    f.modified.isoformat(),
                    original_key_in(f.key) == f.key and f.modified < old,
                )
                for f in files
            ),
        )

    def note_named(self, uris: Iterable[str]) -> None:
        """Add the picture URIs of other rows."""
        keys = (key for uri in uris if (key := self._named(uri)))
        self._insert("INSERT OR IGNORE INTO named VALUES (?)", ((key,) for key in keys))

    def forget_originals(self, keys: Iterable[str]) -> None:
        """Remove these files: the store no longer has them."""
        self._insert("DELETE FROM originals WHERE key = ?", ((key,) for key in keys))

    def originals_of(self, image_ids: Sequence[str]) -> list[str]:
        """The keys of the originals that the rows of these ids name."""
        found = self._database.execute(
            "SELECT original FROM rows WHERE is_ours AND state = ? AND image_id IN"
            " (SELECT value FROM json_each(?))",
            [RowState.LIVE, json.dumps(image_ids)],
        )
        return [key for (key,) in found]

    def some_live(self, most: int | None) -> Iterator[list[str]]:
        """The ids of live rows, in chunks: so many at random, or all."""
        cursor = self._database.execute(
            "SELECT image_id FROM rows WHERE state = ?1 ORDER BY iif(?2 < 0, 0, random()) LIMIT ?2",
            [RowState.LIVE, -1 if most is None else most],
        )
        while some := cursor.fetchmany(_SEARCHED):
            yield [image_id for (image_id,) in some]

    def note_unfound(self, rows: Iterable[Difference]) -> None:
        """Add rows that a search for them doesn't find."""
        self._insert(
            "INSERT OR REPLACE INTO unfound VALUES (?, ?, ?, ?, ?)",
            ((each.image_id, each.kind, *(each.found or (None,) * 3)) for each in rows),
        )

    def forget_unfound(self, image_ids: Iterable[str]) -> None:
        """Remove these rows: searches find them, or will be made again."""
        self._insert("DELETE FROM unfound WHERE image_id = ?", ((each,) for each in image_ids))

    def unfound(self) -> Iterator[list[str]]:
        """The ids that searches didn't find, in chunks, each once."""
        after = ""
        while some := self._database.execute(
            "SELECT DISTINCT image_id FROM unfound WHERE image_id > ? ORDER BY image_id LIMIT ?",
            (after, _SEARCHED),
        ).fetchall():
            yield [image_id for (image_id,) in some]
            (after,) = some[-1]

    def unfound_rows(self) -> Iterator[Difference]:
        """The rows that searches didn't find and that haven't changed since."""
        cursor = self._database.execute(
            "SELECT image_id, kind, epoch, partition, offset FROM unfound"
            " JOIN rows USING (image_id, epoch, partition, offset) ORDER BY image_id, kind"
        )
        for image_id, kind, *version in cursor:
            yield Difference(image_id, Kind(kind), Version(*version), Version(*version))

    def count_unfound(self) -> dict[Kind, int]:
        """How many rows searches didn't find, by vector and by words."""
        counted = self._database.execute(
            "SELECT kind, count(*) FROM unfound"
            " JOIN rows USING (image_id, epoch, partition, offset) GROUP BY kind"
        )
        return {Kind(kind): number for kind, number in counted}

    def left(self) -> Iterator[tuple[str, datetime]]:
        """The originals that nothing names, and when they were stored."""
        after = ""
        while some := self._database.execute(
            "SELECT key, modified FROM lost WHERE key > ? ORDER BY key LIMIT ?", (after, _BATCH)
        ).fetchall():
            yield from ((key, datetime.fromisoformat(modified)) for key, modified in some)
            after = some[-1][0]

    def count_left(self) -> int:
        """How many originals nothing names."""
        return self._count("SELECT count(*) FROM lost")

    def follow(self, ends: Mapping[int, int]) -> None:
        """Accept rows newer than what was read of the log, but not newer than its `ends`."""
        self._insert(
            "UPDATE log SET (epoch, offset, state, sha256, original) = (SELECT r.epoch, r.offset,"
            " r.state, '', '' FROM rows AS r WHERE r.image_id = log.image_id) WHERE image_id IN"
            " (SELECT image_id FROM compared WHERE kind = ? AND epoch = log_epoch"
            " AND partition = log_partition AND partition = ? AND offset < ?)",
            ((Kind.AHEAD, *end) for end in ends.items()),
        )

    def doubt_differences(self) -> int:
        """Mark exactly the ids that differ now as doubtful; returns how many."""
        self._database.execute("DELETE FROM doubts")
        self._database.execute("INSERT INTO doubts SELECT image_id FROM differing")
        return self._count("SELECT count(*) FROM doubts")

    def is_doubted(self, image_id: str) -> bool:
        """Whether that id is doubtful."""
        return bool(self._count("SELECT count(*) FROM doubts WHERE image_id = ?", image_id))

    def doubts(self) -> Iterator[list[str]]:
        """The doubtful ids, in chunks."""
        after = ""
        while some := self._database.execute(
            "SELECT image_id FROM doubts WHERE image_id > ? ORDER BY image_id LIMIT ?",
            (after, _BATCH),
        ).fetchall():
            yield [image_id for (image_id,) in some]
            (after,) = some[-1]

    def differences(self, kinds: Sequence[Kind] = tuple(Kind)) -> Iterator[Difference]:
        """The ids whose row isn't what the log says, in the order of their records' positions."""
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
        """Some deleted rows that have expired from the log; empty if there are no more."""
        cursor = self._database.execute(
            "SELECT image_id, epoch, partition, offset FROM compared WHERE kind = 'expired'"
            " LIMIT ?",
            [_BATCH],
        )
        return {image_id: Version(*version) for image_id, *version in cursor}

    def dead_letters(self) -> dict[str, int]:
        """How many rows are dead-lettered, by the code of the reason."""
        counted = self._database.execute(
            "SELECT coalesce(reason, ''), count(*) FROM rows WHERE state = ? GROUP BY reason",
            [RowState.DEAD_LETTERED],
        )
        return dict(counted.fetchall())

    def images(self) -> int:
        """How many image ids the log has."""
        return self._count("SELECT count(*) FROM log")

    def rows(self) -> int:
        """How many rows the collection has."""
        return self._count("SELECT count(*) FROM rows")

    def _named(self, uri: str) -> str:
        """A key that is not left over; a store may have several URLs."""
        return self._original_of(uri) or original_key_in(uri)

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
