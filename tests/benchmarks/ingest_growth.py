"""Whether ingest gets slower, or its worker larger, as the index grows to 100,000 pictures.

A tiny model and small pictures, each with pixels of its own, so that the model takes next to
nothing, and what remains is the pipeline, the index and the log, which are real.
"""

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from tests.benchmarks.ingest_parts import Measured, Traffic, tree_mib
from tests.support.models import tiny_clip

#: Of its vectors, as ViT-B-32 has.
_DIMENSION = 512
_SIDE = 96
_STEPS = (1_000, 2_000, 5_000, *range(10_000, 1_000_001, 10_000))
#: No step is begun later than this.
_SECONDS = 250.0


def settings(folder: Path) -> dict[str, str]:
    """What a deployment is to work with."""
    return {"PIXTIDE_MODEL": tiny_clip(folder / "tiny", dimension=_DIMENSION)}


def grow(deployment: Measured, pictures: int) -> dict[str, Any]:
    """From step to step: pictures by then, their rate, MiB of the worker and of the broker."""
    deployment.start_worker()
    traffic = Traffic(deployment, _pictures())
    grown: list[dict[str, float]] = []
    started, before = time.perf_counter(), 0
    for step in (step for step in _STEPS if step <= pictures):
        if time.perf_counter() - started > _SECONDS:
            break
        rate = traffic.rate(step - before)
        mib = {name: tree_mib(each.pid) for name, each in deployment.processes.items()}
        grown.append({"pictures": step, "per_second": round(rate, 1), "MiB": mib["ingest"]})
        click.echo(f"{grown[-1]} {mib}", err=True)
        before = step
    return {"steps": grown, "profile": deployment.stop_worker()}


def _pictures() -> Iterator[bytes]:
    """JPEGs of 96 x 96 and some 2 kB: large soft patches of colour."""
    random = np.random.default_rng(0)
    while True:
        patches = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
        jpeg = io.BytesIO()
        patches.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(jpeg, "JPEG")
        yield jpeg.getvalue()
