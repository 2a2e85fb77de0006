"""The indexes that are measured: started alone, and waited for until they have settled."""

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import lancedb
import numpy as np

from pixtide.schemas.errors import TransientError
from pixtide.search.lancedb.vector_indexing import _INDEX_FROM
from pixtide.search.port import VectorIndex
from tests.benchmarks.search_rows import row
from tests.contracts.samples import generation
from tests.servers.weaviate import WeaviateServer, weaviate_server

_SETTLED_WITHIN_S = 1800.0


@contextlib.contextmanager
def weaviate(folder: Path) -> Iterator[WeaviateServer]:
    """A Weaviate of its own."""
    (folder / "data").mkdir(parents=True)
    server = weaviate_server(folder, partial(click.echo, err=True))
    try:
        server.start()
        yield server
    finally:
        server.close()


def process_at(port: int) -> int:
    """The id of the process that was told to serve there."""
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            if f"\0--port\0{port}\0".encode() in each.read_bytes():
                return int(each.parent.name)
    raise RuntimeError("the memory of a Weaviate in a container or elsewhere can't be read here")


def await_trained(index: VectorIndex) -> None:
    """Weaviate refuses writes while it trains; the row that is tried is there already."""
    [first] = index.get([row(0, np.zeros(1, np.float32)).image_id]).values()
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    while True:
        try:
            index.write([first])
            return
        except TransientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def await_indexed(folder: Path, index: VectorIndex) -> None:
    """Vectors are indexed behind the writing of LanceDB's table, where there are enough."""
    table: Any = lancedb.connect(folder / "tables").open_table(generation().collection)
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    enough = sum(index.count().values()) >= _INDEX_FROM
    while enough and not any(found.columns == ["vector"] for found in table.list_indices()):
        if time.monotonic() > deadline:
            raise TimeoutError("the vectors are not indexed")
        time.sleep(0.1)
        table.checkout_latest()
