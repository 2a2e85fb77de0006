"""Who reads a LanceDB table for long: meanwhile the files of its version stay.

A scan reads the table as of its start. What is written meanwhile replaces files, and those that
nobody needs are removed soon after; so a scan leaves a file in a folder, which says that it is
under way, and touches it with all that it reads. One that has died is forgotten in time.
"""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

#: How long files stay by themselves, for whoever reads for a moment.
KEEP_OLD_FILES = timedelta(seconds=30)
#: While there are readers: for good, as far as a table is concerned.
_KEEP_ALL = timedelta(days=36_500)
#: One that has read nothing for so long has died, or has been left alone.
_FORGOTTEN_S = 600.0


class Readers:
    """Those of one table, of any process. `folder` holds one file for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[], None]]:
        """Be one of them, and say by each call that it goes on.

        Where the file can't be written, as on a disk for reading alone, nobody is held up.
        """
        mine = self._folder / uuid.uuid4().hex

        def go_on() -> None:
            with contextlib.suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                mine.touch()

        go_on()
        try:
            yield go_on
        finally:
            with contextlib.suppress(OSError):
                mine.unlink(missing_ok=True)

    def keep(self) -> timedelta:
        """How old the files must be that may be removed now."""
        try:
            others = list(self._folder.iterdir())
        except OSError:
            return KEEP_OLD_FILES
        alive = [each for each in others if _is_alive(each)]
        return _KEEP_ALL if alive else KEEP_OLD_FILES


def _is_alive(reader: Path) -> bool:
    try:
        if time.time() - reader.stat().st_mtime < _FORGOTTEN_S:
            return True
        reader.unlink(missing_ok=True)
    except OSError:
        pass  # it has just ended
    return False
