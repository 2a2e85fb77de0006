"""`make bench-compression`: what each compression of the vectors saves, and what it costs.

One contender after the other imports the same rows through the `VectorIndex` port, is started
anew, and answers the same queries in a process of their own: half are texts, as users ask them,
half are pictures that are not among the rows. Exact answers come from a matrix product.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from encoders.port import Vectors
from encoders.starter.encoder import StarterEncoder
from search.generations import Compression, Generation, GenerationState
from search.lancedb_catalog import LanceCatalog
from search.port import GenerationCatalog, Query, VectorIndex
from search.weaviate_catalog import WeaviateCatalog
from tests.benchmarks.compression_report import Result, plot, table
from tests.benchmarks.embeddings import embeddings
from tests.benchmarks.indexes import await_indexed, await_trained, process_at, weaviate
from tests.benchmarks.machine import describe, matrix_product_gflops, resident_mib
from tests.benchmarks.search_rows import row
from tests.benchmarks.words import phrases
from tests.contracts.samples import generation as sample
from tests.scripts import capacity

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
class Searched:
    """What the searching process found, by row number, and at what pace."""

    found: Found
    single_per_s: float
    batched_per_s: float
    grown_mib: float


@dataclass(frozen=True)
class Cost:
    """What keeping the rows costs, and how fast the machine was before they came."""

    bytes_a_vector: int
    memory_mib: int
    disk_bytes_a_row: int
    rows_per_s: int
    sentinel_gflops: float


class Benchmark:
    """The rows, the queries and their exact answers, and what was measured so far."""

    def __init__(self, folder: Path, vectors: Vectors, queries: Vectors, seconds: float) -> None:
        self.results: list[Result] = []
        self._folder = folder
        self._vectors = vectors
        self._queries = queries
        self._seconds = seconds
        exact = queries @ vectors.T
        self._least = np.partition(exact, -_NEAREST, axis=1)[:, -_NEAREST]

    def weaviate(self, compression: Compression) -> None:
        """HNSW in a Weaviate that holds nothing else; its memory after a fresh start."""
        generation = self._generation(compression)
        with weaviate(self._folder / compression) as server:
            opener = partial(
                WeaviateCatalog, http_url=server.http_url, grpc_port=server.grpc_port, timeout_s=60
            )
            sentinel = matrix_product_gflops()
            rate = self._import(opener, generation, await_trained)
            server.stop()
            disk = self._disk(self._folder / compression / "data")
            server.start()
            searched = self._searched(opener, generation)
            memory = resident_mib(process_at(server.port))
        size = capacity().bytes_a_vector(compression, generation.dimension)
        cost = Cost(size, round(memory), disk, rate, sentinel)
        self._note("Weaviate, HNSW", compression, searched, cost)

    def lancedb(self) -> None:
        """As the embedded parts have it; by how much the process that searches has grown."""
        folder = self._folder / "lancedb"
        generation, opener = self._generation("none"), partial(LanceCatalog, folder=folder)
        sentinel = matrix_product_gflops()
        rate = self._import(opener, generation, partial(await_indexed, folder))
        searched = self._searched(opener, generation)
        size = generation.dimension  # a byte for each number
        cost = Cost(size, round(searched.grown_mib), self._disk(folder), rate, sentinel)
        self._note("LanceDB, IVF", "8 bits", searched, cost)

    def _generation(self, compression: Compression) -> Generation:
        dimension = self._vectors.shape[1]
        return sample(compression=compression, dimension=dimension, attributes={})

    def _import(
        self, opener: Opener, generation: Generation, settle: Callable[[VectorIndex], None]
    ) -> int:
        """Rows a second until all are written, and what is to be trained is trained."""
        with contextlib.closing(opener()) as catalog:
            catalog.create(generation)
            index = catalog.open(generation)
            started = time.perf_counter()
            for start in range(0, len(self._vectors), _WRITTEN_AT_ONCE):
                some = self._vectors[start : start + _WRITTEN_AT_ONCE]
                index.write([row(start + n, vector) for n, vector in enumerate(some)])
            catalog.update(generation.model_copy(update={"state": GenerationState.READY}))
            settle(index)
            return round(len(self._vectors) / (time.perf_counter() - started))

    def _searched(self, opener: Opener, generation: Generation) -> Searched:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(
                _search, opener, generation, self._queries, self._seconds
            ).result()

    def _disk(self, folder: Path) -> int:
        """Bytes on disk for each row."""
        blocks = sum(each.stat().st_blocks for each in folder.rglob("*") if each.is_file())
        return round(blocks * 512 / len(self._vectors))

    def _note(self, index: str, compression: str, searched: Searched, cost: Cost) -> None:
        recall = self._recall(searched.found)
        result = Result(
            index=index,
            compression=compression,
            recall_of_texts=round(float(recall[:_QUERIES].mean()), 4),
            recall_of_pictures=round(float(recall[_QUERIES:].mean()), 4),
            single_per_s=round(searched.single_per_s, 1),
            batched_per_s=round(searched.batched_per_s, 1),
            **asdict(cost),
        )
        click.echo(result, err=True)
        self.results.append(result)

    def _recall(self, found: Found) -> NDArray[np.float64]:
        """For each query the share of its results that are as near as the tenth nearest."""
        right = [
            np.sum(self._vectors[numbers] @ query >= least - _TIE)
            for numbers, query, least in zip(found, self._queries, self._least, strict=True)
        ]
        return np.asarray(right) / _NEAREST


def run(rows: int, encoded: int, seconds: float, out: Path) -> None:
    """Measure, and write the results as JSON, as a Markdown table and as a plot."""
    encoder = StarterEncoder.load()
    encoded = min(rows, encoded)
    say = partial(click.echo, err=True)
    # what is asked for by pictures comes last among the encoded, and is not among the rows
    pictures = embeddings(encoder, encoded + _QUERIES, encoded + _QUERIES, say)[encoded:]
    vectors = embeddings(encoder, rows, encoded, say)
    texts = encoder.encode_texts(phrases(_QUERIES))
    pace = _encoding_pace(encoder)
    with tempfile.TemporaryDirectory(prefix="pixtide-bench-") as folder:
        queries = np.concatenate([texts, pictures])
        benchmark = Benchmark(Path(folder), vectors, queries, seconds)
        compressions: tuple[Compression, ...] = ("none", "rq8", "pq", "rq1")
        for compression in compressions:
            benchmark.weaviate(compression)
        benchmark.lancedb()
    out.mkdir(parents=True, exist_ok=True)
    raw: dict[str, Any] = {
        "machine": describe(),
        "rows": rows,
        "encoded": encoded,
        "seconds": seconds,
    }
    raw["pictures_encoded_per_s"] = pace
    raw["results"] = [asdict(result) for result in benchmark.results]
    (out / "compression.json").write_text(json.dumps(raw, indent=1) + "\n")
    (out / "compression.md").write_text(table(raw, _QUERIES, _BATCH))
    (out / "compression.svg").write_text(plot(raw["results"]))
    click.echo((out / "compression.md").read_text())


def _encoding_pace(encoder: StarterEncoder) -> float:
    """Pictures a second through the starter model, decoded and cut already."""
    pixels = np.zeros((128, encoder.crop.size, encoder.crop.size, 3), np.uint8)
    encoder.encode_pictures(pixels[:32])
    started = time.perf_counter()
    encoder.encode_pictures(pixels)
    return round(len(pixels) / (time.perf_counter() - started), 1)


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
