"""Remembers rows that searches have read, since many searches find the same ones."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from search.port import StoredImage

#: With vectors of 512 dimensions some 70 MB.
_SIZE = 16_384


class RecentRows:
    """Rows by their place in a table's files. Safe to share between threads.

    A place's row never changes: LanceDB writes files once, and a row that is replaced, or moved
    by a compaction, has another place from then on.

    Args:
        read: reads rows with their vectors; those that are gone are left out.
    """

    def __init__(
        self, read: Callable[[Sequence[int]], Mapping[int, StoredImage]], size: int = _SIZE
    ) -> None:
        self._read = read
        self._size = size
        self._rows: OrderedDict[int, StoredImage] = OrderedDict()
        self._lock = threading.Lock()

    def at(self, places: Sequence[int]) -> dict[int, StoredImage]:
        """The rows at these places, without those that were replaced meanwhile.

        Raises:
            TransientError: the table can't be read.
        """
        found: dict[int, StoredImage] = {}
        with self._lock:
            for place in places:
                if (row := self._rows.get(place)) is not None:
                    self._rows.move_to_end(place)
                    found[place] = row
        if missing := [place for place in dict.fromkeys(places) if place not in found]:
            new = self._read(missing)
            found |= new
            with self._lock:
                self._rows |= new
                while len(self._rows) > self._size:
                    self._rows.popitem(last=False)
        return found
