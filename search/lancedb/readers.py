"""Long-running readers of a LanceDB table: while they read, the files of their version stay.

A scan reads the table as of its start. Later writes replace files, and unused files are removed
soon after. So a scan creates a file in a folder, which says that it is running, and touches it with
every read. The file of a reader that has died expires.
"""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

#: How long files stay anyway, for short reads.
KEEP_OLD_FILES = timedelta(seconds=30)
#: While there are readers: practically for ever.
_KEEP_ALL = timedelta(days=36_500)
#: A reader that has read nothing for this long has died, or was abandoned.
_FORGOTTEN_S = 600.0


class Readers:
    """The readers of one table, in any process. `folder` holds one file for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[], None]]:
        """Register as a reader; each call of the result says that reading goes on.

        If the file can't be written, as on a read-only disk, reading goes on without it.
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
        """The least age of files that may be removed now."""
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
