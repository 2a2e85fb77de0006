"""`python -m tests.benchmarks`: each writes a table and its raw results into docs/benchmarks."""

import os
from pathlib import Path

import click

_OUT = Path(__file__).parents[2] / "docs" / "benchmarks"


@click.group()
def benchmarks() -> None:
    """Measure, on this machine."""


@benchmarks.command()
@click.option("--rows", default=100_000, show_default=True, help="Vectors to search in.")
@click.option("--seconds", default=60.0, show_default=True, help="Of each measurement.")
@click.option("--rounds", default=2, show_default=True, help="Turns of each contender.")
@click.option("--out", type=click.Path(path_type=Path), default=_OUT, help="Where results go.")
def search(rows: int, seconds: float, rounds: int, out: Path) -> None:
    """Searches over Kafka, against a plain Faust agent."""
    from tests.benchmarks.search import run

    run(rows, seconds, rounds, out)


@benchmarks.command()
@click.option("--seconds", default=2.0, show_default=True, help="Of each measurement.")
@click.option("--pairs", default=8, show_default=True, help="Turns of each contender.")
@click.option("--threads", default=os.cpu_count(), show_default=True, help="Of each contender.")
@click.option("--note", default="", help="What else the table should say of the machine.")
@click.option("--out", type=click.Path(path_type=Path), default=_OUT, help="Where results go.")
def encode(seconds: float, pairs: int, threads: int, note: str, out: Path) -> None:
    """Pictures and texts to vectors, against open_clip and other encoders."""
    from tests.benchmarks.encode import run

    run(seconds, pairs, threads, note, out)


@benchmarks.command()
@click.option("--rows", default=20_000, show_default=True, help="Vectors to search in.")
@click.option("--seconds", default=300.0, show_default=True, help="How long.")
@click.option("--out", type=click.Path(path_type=Path), default=_OUT, help="Where results go.")
def soak(rows: int, seconds: float, out: Path) -> None:
    """The query consumer's memory under a mixed load."""
    from tests.benchmarks.soak import run

    run(rows, seconds, out)


@benchmarks.command()
@click.option("--pictures", default=100_000, show_default=True, help="That an index grows to.")
@click.option(
    "--only", multiple=True, help="Parts of it, as ingest.py names them; may be repeated."
)
@click.option("--note", default="", help="What else the table should say of the machine.")
@click.option("--out", type=click.Path(path_type=Path), default=_OUT, help="Where results go.")
def ingest(pictures: int, only: tuple[str, ...], note: str, out: Path) -> None:
    """Ingest, against what the machine allows and other consumers."""
    from tests.benchmarks.ingest import PARTS, run

    run(only or PARTS, pictures, note, out)


@benchmarks.command()
@click.option("--model", default="starter", show_default=True, help="As PIXTIDE_MODEL.")
@click.option("--out", type=click.Path(path_type=Path), default=_OUT, help="Where results go.")
def story(model: str, out: Path) -> None:
    """Words, class names and one space, on the demo's pictures."""
    from tests.benchmarks.story import run

    run(model, out)


@benchmarks.command()
@click.option("--rows", default=100_000, show_default=True, help="Vectors to search in.")
@click.option(
    "--encoded",
    default=20_000,
    show_default=True,
    help="How many of them come from pictures; the rest are mixtures.",
)
@click.option("--seconds", default=15.0, show_default=True, help="Of each measurement.")
@click.option("--note", default="", help="What else the table should say of the machine.")
@click.option("--out", type=click.Path(path_type=Path), default=_OUT, help="Where results go.")
def compression(rows: int, encoded: int, seconds: float, note: str, out: Path) -> None:
    """Recall, speed and memory of each compression of the vectors."""
    from tests.benchmarks.compression import Extent, run

    run(Extent(rows, encoded, seconds), note, out)


@benchmarks.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    default=["ViT-B-32", "ViT-L-14"],
    show_default=True,
    help="open_clip's name of an architecture, a ViT.",
)
@click.option("--seconds", default=10.0, show_default=True, help="Of each measurement.")
@click.option("--note", default="", help="What else the table should say of the machine.")
@click.option("--out", type=click.Path(path_type=Path), default=_OUT, help="Where results go.")
def gpu(models: tuple[str, ...], seconds: float, note: str, out: Path) -> None:
    """Encoding on a GPU, and its share of what the GPU can do."""
    from tests.benchmarks.gpu import run

    run(models, seconds, note, out)


benchmarks()
