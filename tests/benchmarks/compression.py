"""`make bench-compression`: what each compression of the vectors saves, and what it costs.

One contender after the other imports the same rows through the `VectorIndex` port. Then they take
turns, forwards and backwards: each is started anew, alone, and answers the same queries of a
process of their own. Half are texts, as users ask them, half are pictures that are not among the
rows. Exact answers come from a matrix product.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from pixtide.encoders.port import Vectors
from pixtide.encoders.starter.encoder import StarterEncoder
from pixtide.search.generations import Compression, Generation, GenerationState
from pixtide.search.lancedb.catalog import LanceCatalog
from pixtide.search.port import GenerationCatalog, Query, VectorIndex
from pixtide.search.weaviate.catalog import WeaviateCatalog
from tests.benchmarks.compression_report import Result, plot, table
from tests.benchmarks.embeddings import embeddings
from tests.benchmarks.indexes import await_indexed, await_trained, process_at, weaviate
from tests.benchmarks.machine import (
    describe,
    encoding_pace,
    matrix_product_gflops,
    resident_mib,
)
from tests.benchmarks.search_rows import row
from tests.benchmarks.words import phrases
from tests.contracts.samples import generation as sample
from tests.servers import WeaviateServer
from tests.support.scripts import capacity

_COMPRESSIONS: tuple[Compression, ...] = ("none", "rq8", "pq", "rq1")
_NEAREST = 10
#: Of each kind.
_QUERIES = 500
#: Queries in one call of the port, as the query consumer asks when it is busy.
_BATCH = 64
_WRITTEN_AT_ONCE = 500
_WARM_UP_S = 5.0
#: Similarities that differ by less are a tie: one of float32's roundings.
_TIE = 2e-6

Opener = Callable[[], GenerationCatalog]
Found = list[list[int]]


@dataclass(frozen=True)
class Extent:
    """How many rows, how many of them of encoded pictures, and how long each measurement is."""

    rows: int
    encoded: int
    seconds: float


@dataclass(frozen=True)
class Searched:
    """What the searching process found, by row number, at what pace, and how it has grown."""

    found: Found
    single_per_s: float
    batched_per_s: float
    grown_mib: float


@dataclass
class Contender:
    """One index of the rows, and what was measured of it so far; memory in MiB."""

    index: str
    compression: str
    bytes_a_vector: int
    opener: Opener
    generation: Generation
    server: WeaviateServer | None = None
    disk_bytes_a_row: int = 0
    rows_per_s: int = 0
    memory: list[float] = field(default_factory=list)
    rounds: list[Searched] = field(default_factory=list)

    def search(self, queries: Vectors, seconds: float) -> None:
        """One turn."""
        if self.server is not None:
            self.server.start()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            asked = process.submit(_search, self.opener, self.generation, queries, seconds)
            searched = asked.result()
        self.rounds.append(searched)
        if self.server is None:
            self.memory.append(searched.grown_mib)
        else:
            self.memory.append(resident_mib(process_at(self.server.port)))
            self.server.stop()


class Benchmark:
    """The rows, the queries, their exact answers, and who contends."""

    def __init__(self, folder: Path, vectors: Vectors, queries: Vectors) -> None:
        self.contenders: list[Contender] = []
        self._folder = folder
        self._vectors = vectors
        self._queries = queries
        exact = queries @ vectors.T
        self._least = np.partition(exact, -_NEAREST, axis=1)[:, -_NEAREST]

    def fill_weaviate(self, compression: Compression, server: WeaviateServer) -> None:
        """HNSW in a Weaviate that holds nothing else; stopped afterwards."""
        generation = self._generation(compression)
        opener = partial(
            WeaviateCatalog, http_url=server.http_url, grpc_port=server.grpc_port, timeout_s=60
        )
        size = capacity().bytes_a_vector(compression, generation.dimension)
        made = Contender("Weaviate, HNSW", compression, size, opener, generation, server)
        made.rows_per_s = self._import(made, await_trained)
        server.stop()
        made.disk_bytes_a_row = self._disk(self._folder / compression / "data")
        self.contenders.append(made)

    def fill_lancedb(self) -> None:
        """As the embedded parts have it, with a byte for each number in its index."""
        folder, generation = self._folder / "lancedb", self._generation("none")
        opener = partial(LanceCatalog, folder=folder)
        made = Contender("LanceDB, IVF", "8 bits", generation.dimension, opener, generation)
        made.rows_per_s = self._import(made, partial(await_indexed, folder))
        made.disk_bytes_a_row = self._disk(folder)
        self.contenders.append(made)

    def search(self, seconds: float) -> list[Result]:
        """Everybody's turns, forwards and backwards."""
        for contender in (*self.contenders, *reversed(self.contenders)):
            contender.search(self._queries, seconds)
            click.echo(f"{contender.compression}: {contender.rounds[-1].batched_per_s}", err=True)
        return [self._result(contender) for contender in self.contenders]

    def _generation(self, compression: Compression) -> Generation:
        dimension = self._vectors.shape[1]
        return sample(compression=compression, dimension=dimension, attributes={})

    def _import(self, made: Contender, settle: Callable[[VectorIndex], None]) -> int:
        """Rows a second until all are written, and what is to be trained is trained."""
        with contextlib.closing(made.opener()) as catalog:
            catalog.create(made.generation)
            index = catalog.open(made.generation)
            started = time.perf_counter()
            for start in range(0, len(self._vectors), _WRITTEN_AT_ONCE):
                some = self._vectors[start : start + _WRITTEN_AT_ONCE]
                index.write([row(start + n, vector) for n, vector in enumerate(some)])
            catalog.change(
                made.generation.name,
                lambda now: now.model_copy(update={"state": GenerationState.READY}),
            )
            settle(index)
            rate = len(self._vectors) / (time.perf_counter() - started)
        click.echo(f"{made.index}, {made.compression}: {rate:.0f} rows/s", err=True)
        return round(rate)

    def _disk(self, folder: Path) -> int:
        """Bytes on disk for each row."""
        blocks = sum(each.stat().st_blocks for each in folder.rglob("*") if each.is_file())
        return round(blocks * 512 / len(self._vectors))

    def _result(self, made: Contender) -> Result:
        recall = np.mean([self._recall(searched.found) for searched in made.rounds], axis=0)
        return Result(
            index=made.index,
            compression=made.compression,
            bytes_a_vector=made.bytes_a_vector,
            memory_mib=round(fmean(made.memory)),
            disk_bytes_a_row=made.disk_bytes_a_row,
            recall_of_texts=round(float(recall[:_QUERIES].mean()), 4),
            recall_of_pictures=round(float(recall[_QUERIES:].mean()), 4),
            single_per_s=round(fmean(each.single_per_s for each in made.rounds), 1),
            batched_per_s=round(fmean(each.batched_per_s for each in made.rounds), 1),
            rows_per_s=made.rows_per_s,
        )

    def _recall(self, found: Found) -> NDArray[np.float64]:
        """For each query the share of its results that are as near as the tenth nearest."""
        right = [
            np.sum(self._vectors[numbers] @ query >= least - _TIE)
            for numbers, query, least in zip(found, self._queries, self._least, strict=True)
        ]
        return np.asarray(right) / _NEAREST


def run(extent: Extent, note: str, out: Path) -> None:
    """Measure, and write the results as JSON, as a Markdown table and as a plot."""
    encoder = StarterEncoder.load()
    rows, encoded = extent.rows, min(extent.rows, extent.encoded)
    say = partial(click.echo, err=True)
    # what is asked for by pictures comes last among the encoded, and is not among the rows
    pictures = embeddings(encoder, encoded + _QUERIES, encoded + _QUERIES, say)[encoded:]
    vectors = embeddings(encoder, rows, encoded, say)
    texts = encoder.encode_texts(phrases(_QUERIES))
    pace = encoding_pace(encoder)
    sentinel = matrix_product_gflops()
    with tempfile.TemporaryDirectory(prefix="pixtide-bench-") as folder, ExitStack() as servers:
        benchmark = Benchmark(Path(folder), vectors, np.concatenate([texts, pictures]))
        for compression in _COMPRESSIONS:
            server = servers.enter_context(weaviate(Path(folder) / compression))
            benchmark.fill_weaviate(compression, server)
        benchmark.fill_lancedb()
        results = benchmark.search(extent.seconds)
    out.mkdir(parents=True, exist_ok=True)
    raw: dict[str, Any] = {
        "machine": describe(),
        "rows": rows,
        "encoded": encoded,
        "seconds": extent.seconds,
        "note": note,
    }
    raw |= {"pictures_encoded_per_s": pace, "sentinel_gflops": sentinel}
    raw["results"] = [asdict(result) for result in results]
    (out / "compression.json").write_text(json.dumps(raw, indent=1) + "\n")
    (out / "compression.md").write_text(table(raw, _QUERIES, _BATCH))
    (out / "compression.svg").write_text(plot(raw["results"]))
    click.echo((out / "compression.md").read_text())


def _search(opener: Opener, generation: Generation, queries: Vectors, seconds: float) -> Searched:
    """Runs in a process of its own, so that what it keeps in memory is the index's."""
    asked = [Query(vector, _NEAREST) for vector in queries]
    before = resident_mib()
    with contextlib.closing(opener()) as catalog:
        index = catalog.open(generation)
        _paced(index, asked, _BATCH, _WARM_UP_S)
        single = _paced(index, asked, 1, seconds)
        batched = _paced(index, asked, _BATCH, seconds)
        grown = resident_mib() - before
        hits = [found for one in asked for found in index.search([one])]
    found = [[int(Path(hit.row.image_id).stem) for hit in each] for each in hits]
    return Searched(found, single, batched, grown)


def _paced(index: VectorIndex, asked: Sequence[Query], at_once: int, seconds: float) -> float:
    """Queries answered a second."""
    answered, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        start = answered % (len(asked) - at_once + 1)
        answered += len(index.search(asked[start : start + at_once]))
    return answered / passed
