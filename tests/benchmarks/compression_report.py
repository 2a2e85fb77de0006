"""What `make bench-compression` has measured, as a table and a plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.plot import scatter


@dataclass(frozen=True)
class Result:
    """One contender. Memory is resident, in MiB; recall is of the ten nearest, 0 to 1.

    Its disk holds the whole vectors too, by which the nearest are ranked, and the rest of a row.
    """

    index: str
    compression: str
    bytes_a_vector: int
    memory_mib: int
    disk_bytes_a_row: int
    recall_of_texts: float
    recall_of_pictures: float
    single_per_s: float
    batched_per_s: float
    rows_per_s: int


def table(raw: dict[str, Any], queries: int, batch: int) -> str:
    """The results in Markdown, of so many queries of each kind, so many in a batch."""
    rows, encoded = raw["rows"], raw["encoded"]
    machine = ", ".join(f"{name} {value}" for name, value in raw["machine"].items())
    columns = [
        *("bytes a vector", "smaller", "memory, MiB", "disk, bytes a row"),
        *("recall@10, texts", "recall@10, pictures"),
        *("one at a time, /s", "batched, /s", "import, rows/s"),
    ]
    lines = [
        "# Compression of vectors",
        "",
        f"{rows:,} vectors of the starter model, 384 numbers each: {encoded:,} of pictures, cut,"
        " turned, recoloured, blended and put side by side from the demo's; the other"
        f" {rows - encoded:,} mixtures of two of those vectors. Each contender imported them"
        " through the port; then, in two turns each, it was started anew, alone, and asked for the"
        f" ten nearest of {queries} texts and of {queries} pictures that are not among the rows,"
        f" for {raw['seconds']:g} s one at a time and for as long {batch} at a time; figures are"
        " the means of both. Weaviate's memory is the whole server's, with what is mapped of its"
        " files; LanceDB's is by how much the process that searches has grown."
        " On disk are the whole vectors in any case, and the rest of a row. The model encodes"
        f" {raw['pictures_encoded_per_s']:g} pictures a second here. Client and server share the"
        f" machine. Made by `make bench-compression` on: {machine}. {raw['note']}".rstrip(),
        "",
        f"| index | compression | {' | '.join(columns)} |",
        "|---|---|" + "---:|" * len(columns),
    ]
    whole = raw["results"][0]["bytes_a_vector"]
    lines += [_line(result, whole) for result in raw["results"]]
    return "\n".join([*lines, "", "![Recall by size](compression.svg)"]) + "\n"


def _line(result: dict[str, Any], whole: int) -> str:
    size = result["bytes_a_vector"]
    cells = [
        *(result["index"], result["compression"]),
        *(f"{size:,}", f"{whole / size:.1f} ×"),
        *(f"{result['memory_mib']:,}", f"{result['disk_bytes_a_row']:,}"),
        *(f"{result['recall_of_texts']:.3f}", f"{result['recall_of_pictures']:.3f}"),
        *(f"{result['single_per_s']:,.0f}", f"{result['batched_per_s']:,.0f}"),
        f"{result['rows_per_s']:,}",
    ]
    return f"| {' | '.join(cells)} |"


def plot(results: Sequence[dict[str, Any]]) -> str:
    """Recall of texts by bytes a vector."""
    points = [
        (
            f"{r['index'].split(',')[0]} {r['compression']}: {r['batched_per_s']:,.0f}/s",
            r["bytes_a_vector"],
            r["recall_of_texts"],
        )
        for r in results
    ]
    return scatter(
        points,
        x="bytes a vector, each step twice as many",
        y="recall@10 of texts; beside each point queries a second, batched",
    )
