"""The generations of an embedded index: a folder of tables, records and one alias file.

    generations/<name>.json     the record
    tables/<collection>.lance   the table
    locks/<collection>.lock     who writes it
    locks/<collection>.readers/ who reads it for long
    live                        the name of the live generation

Files are replaced by an atomic rename, so that no reader sees half of one.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import lancedb
from filelock import FileLock, Timeout
from lancedb.db import DBConnection
from lancedb.index import FTS
from lancedb.table import Table
from pydantic import ValidationError

from pixtide.schemas.base import explain
from pixtide.schemas.errors import FatalError, TransientError, UsageError
from pixtide.search.generations import COLLECTION, NAME, Generation, GenerationState
from pixtide.search.lancedb.index import LanceIndex
from pixtide.search.lancedb.table import attempt, table_schema
from pixtide.search.port import CollectionGoneError
from pixtide.search.rows import WORDS

_LOCK_TIMEOUT_S = 30
#: Bytes of LanceDB's caches, which also keep data of earlier versions of a table. The defaults are
#: up to 6 GiB and 1 GiB; the index of a million vectors of 384 dimensions takes 0.4.
_INDEX_CACHE, _METADATA_CACHE = 512 * 2**20, 64 * 2**20


class LanceCatalog:
    """The `GenerationCatalog` in a folder of this machine.

    Any number of processes may use it at once. Every method raises TransientError if the disk fails
    or is full.
    """

    def __init__(self, *, folder: Path):
        self._folder = folder
        self._database: DBConnection | None = None

    def create(self, generation: Generation) -> None:
        """Create the table, then its record; safe to repeat after a crash in between.

        Raises:
            UsageError: the name or the collection is taken, or the collection's name is not
                allowed.
        """
        if not re.fullmatch(COLLECTION, generation.collection):
            raise UsageError(f"{generation.collection!r} can't name a table")
        with self._alone():
            for other in self.list():
                if other.name == generation.name:
                    raise UsageError(f"there is a generation {generation.name!r} already")
                if other.collection == generation.collection:
                    raise UsageError(
                        f"the collection {other.collection} is the generation {other.name}'s"
                    )
            self._create_table(generation)
            self._replace(self._record(generation.name), generation.to_json())

    def get(self, name: str) -> Generation | None:
        """The record of that generation."""
        if not re.fullmatch(NAME, name):
            return None  # and it is no path either
        data = self._read(self._record(name))
        return None if data is None else _parsed(data)

    def _known(self, name: str) -> Generation:
        generation = self.get(name)
        if generation is None:
            raise UsageError(f"there is no generation {name!r}")
        return generation

    def list(self) -> list[Generation]:
        """All records, oldest first."""
        try:
            files = sorted((self._folder / "generations").glob("*.json"))
        except OSError as error:
            raise TransientError(f"the records can't be listed: {error}") from error
        records = [_parsed(data) for file in files if (data := self._read(file)) is not None]
        return sorted(records, key=lambda generation: generation.created_at)

    def change(self, name: str, change: Callable[[Generation], Generation]) -> Generation:
        """Replace the record with that name by the result of `change`, under the lock.

        Raises:
            UsageError: there is no such generation.
        """
        with self._alone():
            changed = change(self._known(name))
            self._replace(self._record(name), changed.to_json())
        return changed

    def live(self) -> Generation | None:
        """The generation that the alias points to."""
        name = self._read(self._folder / "live")
        return None if name is None else self.get(name.decode(errors="replace"))

    def promote(self, name: str) -> None:
        """Point the alias at that generation by one atomic rename.

        Raises:
            UsageError: the generation or its table doesn't exist, or it is retired.
        """
        with self._alone():
            generation = self._known(name)
            if generation.state is GenerationState.RETIRED:
                raise UsageError(f"the generation {name} is retired")
            self.open(generation)
            self._replace(self._folder / "live", name.encode())

    def drop(self, generation: Generation) -> None:
        """Drop the table; the record stays. Safe to repeat.

        Raises:
            UsageError: that generation is live.
        """
        with self._alone():
            if generation.is_same(self.live()):
                raise UsageError(f"the generation {generation.name} is live")
            name = generation.collection
            if self._table(name) is not None:
                attempt(lambda: self._connected().drop_table(name), name)

    def open(self, generation: Generation) -> LanceIndex:
        """The table of that generation.

        Raises:
            CollectionGoneError: the record or the table is missing.
            FatalError: it holds vectors of another fingerprint.
        """
        recorded, table = self.get(generation.name), self._table(generation.collection)
        if recorded is None or table is None:
            raise CollectionGoneError(f"the generation {generation.name} is gone")
        if recorded.fingerprint != generation.fingerprint:
            raise FatalError(
                f"the generation {generation.name} is of {recorded.fingerprint},"
                f" not of {generation.fingerprint}"
            )
        return LanceIndex(
            table=table,
            generation=generation,
            lock_file=self._lock_file(generation.collection),
        )

    def read_only(self) -> Sequence[str]:
        """Nothing: a full disk refuses writes only as long as it is full."""
        return []

    def make_writable(self) -> Sequence[str]:
        """Nothing needs this."""
        return []

    def close(self) -> None:
        """Close the folder."""
        self._database = None

    def _create_table(self, generation: Generation) -> None:
        """Create an empty table; one without a record is left over from a crashed `create`."""
        name, database = generation.collection, self._connected()
        if (left := self._table(name)) is not None:
            if attempt(left.count_rows, name):
                raise UsageError(f"the table {name} has rows, but no generation records it")
            attempt(lambda: database.drop_table(name), name)
        attempt(lambda: _create(database, name, generation), name)

    def _table(self, name: str) -> Table | None:
        try:
            return attempt(lambda: self._connected().open_table(name), name)
        except ValueError:  # LanceDB's error for a missing table
            return None

    def _connected(self) -> DBConnection:
        """Each read asks for the newest version: another process may have written."""
        if self._database is None:
            tables = self._folder / "tables"
            self._database = attempt(
                lambda: lancedb.connect(
                    tables,
                    read_consistency_interval=timedelta(0),
                    session=lancedb.Session(_INDEX_CACHE, _METADATA_CACHE),
                ),
                str(tables),
            )
        return self._database

    def _record(self, name: str) -> Path:
        return self._folder / "generations" / f"{name}.json"

    def _lock_file(self, name: str) -> Path:
        folder = self._folder / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TransientError(f"{folder}: {error}") from error
        return folder / f"{name}.lock"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(self._lock_file("generations"), timeout=_LOCK_TIMEOUT_S)
        try:
            lock.acquire()
        except (Timeout, OSError) as error:
            raise TransientError(f"no lock on the generations: {error}") from error
        try:
            yield
        finally:
            lock.release()

    def _read(self, file: Path) -> bytes | None:
        try:
            return file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TransientError(f"{file}: {error}") from error

    def _replace(self, file: Path, data: bytes) -> None:
        """Write a whole file or nothing; it survives a power cut."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as new:
                new.write(data)
                new.flush()
                os.fsync(new.fileno())
            Path(new.name).replace(file)
            folder = os.open(file.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise TransientError(f"{file}: {error}") from error


def _create(database: DBConnection, name: str, generation: Generation) -> None:
    """An empty table with an index of words, which compactions keep up to date."""
    table = database.create_table(name, schema=table_schema(generation))
    words = FTS(stem=False, remove_stop_words=False)  # captions may be in any language
    table.create_index(WORDS, config=words)


def _parsed(data: bytes) -> Generation:
    try:
        return Generation.from_json(data)
    except ValidationError as error:
        raise FatalError(f"a generation's record is damaged: {explain(error)}") from error
