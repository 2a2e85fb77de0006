"""What so many pictures need: partitions, workers, memory, disk, and the time of a full reindex.

    python deploy/capacity.py --pictures 1e8 --dimension 512 --reindex-days 1

Constants that were measured come from docs/benchmarks/compression.json; CAPACITY.md says where
the formulas come from, and holds the tables that `python deploy/capacity.py --write` makes.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("CAPACITY.md")
MEASURED = Path(__file__).parents[1] / "docs" / "benchmarks" / "compression.json"
BEGIN, END = "<!-- written by deploy/capacity.py -->\n", "<!-- end -->\n"
SHOWN = (1e6, 1e8, 1e9)

GiB, TB = 2**30, 1e12
DAY_S = 86_400
#: Weaviate's maxConnections by default, and bytes of memory for each by its documentation.
CONNECTIONS, BYTES_A_CONNECTION = 32, 10
#: Memory that a garbage-collected heap takes for each byte in use, by Weaviate's rule of thumb.
HEAP = 2
#: A compacted topic may hold as much again of what is superseded (its dirty ratio is 0.5).
UNCLEANED = 2
#: Of a machine's memory and disk for Weaviate; the rest is for page cache and compactions.
USABLE = 0.8
#: Of a machine's capacity, what is planned with; the rest is for peaks and for live searches.
BUSY = 0.5


@dataclass(frozen=True)
class Plan:
    """What is asked for. Sizes in bytes, rates a second; help says the rest."""

    pictures: float = 1e6
    dimension: int = 512
    compression: str = "rq8"
    replicas: int = 3
    events_per_s: float = 10
    reindex_days: float = 2
    pictures_per_gpu_s: float = 500
    event_bytes: int = 600
    picture_bytes: int = 500_000
    node_gib: int = 128
    node_cores: int = 16


HELP = {
    "pictures": "how many are indexed",
    "dimension": "numbers in a vector",
    "compression": "rq8, rq1, pq or none",
    "replicas": "copies of each vector in Weaviate, and of each record in Kafka",
    "events_per_s": "uploads, updates and deletes in the busiest hour",
    "reindex_days": "how long a full reindex may take",
    "pictures_per_gpu_s": "what one worker with one GPU ingests; on an H200 428 to 533",
    "event_bytes": "of a record in Kafka: its uri, caption, tags and headers",
    "picture_bytes": "of an original",
    "node_gib": "memory of one Weaviate node",
    "node_cores": "its cores",
}


@dataclass(frozen=True)
class Measured:
    """Of one core of the machine of docs/benchmarks, with the plan's compression."""

    rows_per_core_s: float
    searches_per_core_s: float
    row_bytes: float


@dataclass(frozen=True)
class Need:
    """What a plan needs while two generations stand beside each other, as in a reindex."""

    vector_bytes: int
    memory_gib: float
    nodes: int
    searches_per_s: float
    disk_tb: float
    log_tb: float
    originals_tb: float
    live_workers: int
    workers: int
    partitions: int
    reindex_hours: float
    gpu_hours: float


def measured(compression: str) -> Measured:
    """From the benchmark, in which client and server shared the cores."""
    found = json.loads(MEASURED.read_text())
    cores = int(found["machine"]["cores"])
    [result] = [
        each
        for each in found["results"]
        if each["compression"] == compression and each["index"].startswith("Weaviate")
    ]
    whole = found["results"][0]["bytes_a_vector"]
    return Measured(
        rows_per_core_s=result["rows_per_s"] / cores,
        searches_per_core_s=result["batched_per_s"] / cores,
        row_bytes=result["disk_bytes_a_row"] - whole - result["bytes_a_vector"],
    )


def bytes_a_vector(compression: str, dimension: int) -> int:
    """What HNSW keeps of a vector in memory beside its connections, in Weaviate 1.35.

    By its source: rotations have a multiple of 64 numbers, for 1 bit at least 256, and codes 16 or
    8 bytes besides; product quantization takes a byte for each 2 to 8 numbers.
    """
    padded = -(-dimension // 64) * 64
    if compression == "rq8":
        return padded + 16
    if compression == "rq1":
        return max(padded, 256) // 8 + 8
    if compression == "pq":
        shares = ((2048, 8), (768, 6), (256, 4), (0, 2))
        return dimension // next(
            (n for least, n in shares if dimension >= least and dimension % n == 0), 1
        )
    return 4 * dimension


def need(plan: Plan, known: Measured) -> Need:
    """The formulas, each explained in CAPACITY.md."""
    vector = bytes_a_vector(plan.compression, plan.dimension)
    memory = 2 * plan.pictures * (vector + CONNECTIONS * BYTES_A_CONNECTION) * HEAP * plan.replicas
    nodes = max(plan.replicas, math.ceil(memory / (plan.node_gib * GiB * USABLE)))
    row = 4 * plan.dimension + vector + known.row_bytes
    workers = math.ceil(plan.pictures / (plan.reindex_days * DAY_S) / plan.pictures_per_gpu_s)
    live = math.ceil(plan.events_per_s / (plan.pictures_per_gpu_s * BUSY))
    importing = nodes * plan.node_cores * known.rows_per_core_s * BUSY / plan.replicas
    seconds = plan.pictures / min(workers * plan.pictures_per_gpu_s, importing)
    return Need(
        vector_bytes=vector,
        memory_gib=memory / GiB,
        nodes=nodes,
        searches_per_s=plan.node_cores * known.searches_per_core_s * BUSY,
        disk_tb=2 * plan.pictures * row * plan.replicas / USABLE / TB,
        log_tb=plan.pictures * plan.event_bytes * UNCLEANED * plan.replicas / TB,
        originals_tb=plan.pictures * plan.picture_bytes / TB,
        live_workers=live,
        workers=workers,
        partitions=max(6, _round(2 * max(workers, live))),
        reindex_hours=seconds / 3600,
        gpu_hours=plan.pictures / plan.pictures_per_gpu_s / 3600,
    )


def _round(number: float) -> int:
    """Up to a multiple of 6, which many numbers of workers divide."""
    return math.ceil(number / 6) * 6


_ROWS: dict[str, tuple[str, Callable[[Need], float]]] = {
    "partitions of `images.uploaded`": ("{:,.0f}", lambda n: n.partitions),
    "live workers, one GPU each": ("{:,.0f}", lambda n: n.live_workers),
    "workers of a full reindex": ("{:,.0f}", lambda n: n.workers),
    "hours of a full reindex": ("{:,.1f}", lambda n: n.reindex_hours),
    "hours of GPU in it": ("{:,.0f}", lambda n: n.gpu_hours),
    "bytes a vector in memory": ("{:,.0f}", lambda n: n.vector_bytes),
    "Weaviate: memory, GiB": ("{:,.0f}", lambda n: n.memory_gib),
    "Weaviate: nodes, and shards": ("{:,.0f}", lambda n: n.nodes),
    "Weaviate: searches a second": ("{:,.0f}", lambda n: n.searches_per_s),
    "Weaviate: disk, TB": ("{:,.2f}", lambda n: n.disk_tb),
    "Kafka: disk, TB": ("{:,.3f}", lambda n: n.log_tb),
    "originals kept, and read in a full reindex, TB": ("{:,.1f}", lambda n: n.originals_tb),
}


def table(plans: list[Plan]) -> str:
    """A column for each plan, in Markdown."""
    needs = [need(plan, measured(plan.compression)) for plan in plans]
    head = [f"{plan.pictures:.0e} {plan.compression}".replace("e+0", "e") for plan in plans]
    lines = [f"| | {' | '.join(head)} |", "|---|" + "---:|" * len(plans)]
    for name, (shown, pick) in _ROWS.items():
        lines.append(f"| {name} | {' | '.join(shown.format(pick(each)) for each in needs)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """CAPACITY.md as it should be, with the tables of today's constants."""
    before, rest = PAGE.read_text().split(BEGIN)
    plan = Plan()
    kept = [f"| `--{name.replace('_', '-')}` | {value} | {HELP[name]} |"
            for name, value in asdict(plan).items() if name != "pictures"]  # fmt: skip
    known = measured(plan.compression)
    return (
        before
        + BEGIN
        + "Asked for:\n\n| | | |\n|---|---:|---|\n"
        + "\n".join(kept)
        + "\n\nMeasured, of one core, with rq8: "
        + f"{known.rows_per_core_s:,.0f} rows imported a second, "
        + f"{known.searches_per_core_s:,.0f} searches a second, "
        + f"{known.row_bytes:,.0f} bytes of disk a row beside its vectors.\n\n"
        + table([replace(plan, pictures=each) for each in SHOWN])
        + END
        + rest.split(END)[1]
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the tables of CAPACITY.md")
    for field in fields(Plan):
        kind: Any = type(field.default)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            default=field.default,
            help=f"{HELP[field.name]} (%(default)s)",
        )
    asked = vars(parser.parse_args(arguments))
    if asked.pop("write"):
        PAGE.write_text(page())
        return
    print(table([Plan(**asked)]), end="")  # it is what the script is for


if __name__ == "__main__":
    main()
