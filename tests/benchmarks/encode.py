"""`make bench-encode`: pictures and texts to vectors on a CPU, against what people use today.

Each contender has the same weights and the same threads, and agrees with open_clip on the vectors
before it is timed. Peers run in virtual environments of their own, made once in the user's cache.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pixtide.encoders.port import Vectors
from tests.benchmarks import checkpoint
from tests.benchmarks.contender import Contender
from tests.benchmarks.machine import describe
from tests.benchmarks.pairs import Turns, take_turns
from tests.benchmarks.plot import bars
from tests.benchmarks.words import phrases

CACHE = Path(os.environ.get("XDGCACHE_HOME") or Path.home() / ".cache") / "pixtide"
_ORIGINALS = Path(__file__).parents[2] / "streams" / "demo" / "pictures"
OURS = Path(sys.executable)
_SCRIPT = Path(__file__).with_name("peers.py")
#: name: Python's version, and what is installed.
_PEERS = {
    "sentence-transformers": (
        "3.12",
        ("sentence-transformers==6.2.0", "pillow", "torch==2.15.0", "torchvision"),
    ),
    "infinity-emb": (
        "3.12",
        (
            *("infinity-emb[torch,vision,optimum]==0.0.77", "torch==2.15.0", "optimum<2"),
            *("transformers==4.47.1", "pyarrow<20", "pandas<3", "datasets<4.5", "click<8.2"),
        ),
    ),
    "clip-retrieval": (
        "3.10",
        (
            *("clip-retrieval==2.45.0", "open_clip_torch==2.32.0", "torch==2.12.1"),
            *("transformers==4.57.6", "setuptools<70"),
        ),
    ),
}
_OURS = ("pixtide fp32", "pixtide bf16", "pixtide int8")
_DECODERS = ("decode: pixtide", "decode: open_clip")
_BASELINE = "open_clip"
#: How near a contender's vectors are to open_clip's, at the least; who isn't is not timed.
_ALIKE, _ALIKE_OF = 0.999, {"pixtide int8": 0.99}
_NEAREST = 10
#: Of the nearest in fp32, the part that a precision has to find; one that doesn't is not timed.
_RECALL = 0.9
#: name: width and height of the pictures, how many.
_PICTURES = {"small": (640, 428, 32), "2 MP": (1800, 1200, 16), "12 MP": (4200, 2800, 8)}
_TEXTS, _ALL = 64, 1000


def run(seconds: float, pairs: int, threads: int, note: str, out: Path) -> None:
    """Measure, and write the results as JSON, as a Markdown table and as a plot."""
    models = CACHE / "benchmarks" / "vit-b-32"
    checkpoint.write(models)
    with (
        tempfile.TemporaryDirectory(prefix="pixtide-bench-") as folder,
        contextlib.ExitStack() as running,
    ):
        data = Path(folder)
        write_data(data)

        def start(name: str, python: Path = OURS, threads: int = threads) -> Contender:
            return running.enter_context(contender(name, python, models, data, threads))

        absent: dict[str, str] = {}
        contenders = {name: start(name) for name in (*_OURS, _BASELINE)}
        for name in _PEERS:
            try:
                contenders[name] = start(name, environment(name))
            except (OSError, subprocess.SubprocessError) as error:
                absent[name] = str(error)
        cosines = _agree(contenders, absent)
        recalls = _recalls(contenders, absent)
        measured: dict[str, Turns] = {}
        for work, count in (("texts", _TEXTS), ("small", 32), ("2 MP", 16)):
            click.echo(work, err=True)
            measured[work] = take_turns(_measures(contenders.values(), work, count, seconds), pairs)
        decoders = [start(name, threads=1) for name in _DECODERS]
        for work, (*_, count) in _PICTURES.items():
            click.echo(f"decode {work}", err=True)
            measured[f"decode {work}"] = take_turns(
                _measures(decoders, work, min(count, 8), seconds / 2), pairs
            )
    raw: dict[str, Any] = {
        "machine": describe(),
        "threads": threads,
        "seconds": seconds,
        "note": note,
        "cosines": cosines,
        "recalls": recalls,
        "absent": absent,
        "measured": {work: asdict(turns) for work, turns in measured.items()},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "encode.json").write_text(json.dumps(raw, indent=1) + "\n")
    (out / "encode.md").write_text(_table(raw, measured))
    (out / "encode.svg").write_text(_plot(measured))
    click.echo((out / "encode.md").read_text())


def _measures(
    contenders: Any, work: str, count: int, seconds: float
) -> dict[str, Callable[[], float]]:
    def measure(contender: Contender) -> float:
        return float(contender.ask(work=work, count=count, seconds=seconds)["per_s"])

    for contender in contenders:
        contender.ask(work=work, count=count, seconds=0.1)  # the first time is the slow one
    return {contender.name: partial(measure, contender) for contender in contenders}


def _agree(contenders: dict[str, Contender], absent: dict[str, str]) -> dict[str, dict[str, float]]:
    """The least cosine of each contender's vectors to open_clip's; who differs is left out."""
    cosines: dict[str, dict[str, float]] = {}
    for work in ("texts", "small", "2 MP"):
        wanted = _vectors(contenders[_BASELINE], work)
        for name in list(contenders):
            try:
                least = float((_vectors(contenders[name], work) * wanted).sum(1).min())
            except RuntimeError as error:
                absent[name] = str(error)
                del contenders[name]
                continue
            cosines.setdefault(name, {})[work] = round(least, 6)
            if least < _ALIKE_OF.get(name, _ALIKE):
                absent[name] = f"its vectors of {work} are within {least:.4f} only"
                del contenders[name]
    return cosines


def _recalls(
    contenders: dict[str, Contender], absent: dict[str, str]
) -> dict[str, dict[str, float]]:
    """What each precision finds of the ten nearest that fp32 finds among the demo's pictures.

    To each picture, and to each text; `alike` is the middle cosine of two pictures in fp32.
    """
    if _OURS[0] not in contenders:
        return {}
    texts = _vectors(contenders[_OURS[0]], "texts", _TEXTS)
    exact = _vectors(contenders[_OURS[0]], "gallery", _ALL)
    cosines = (exact @ exact.T)[np.triu_indices(len(exact), 1)]
    recalls = {"gallery": {"pictures": len(exact), "alike": round(float(np.median(cosines)), 4)}}
    wanted = {"pictures": _nearest(exact, exact), "texts": _nearest(texts, exact)}
    for name in _OURS[1:]:
        if name not in contenders:
            continue
        rough = _vectors(contenders[name], "gallery", _ALL)
        asked = _vectors(contenders[name], "texts", _TEXTS)
        found = {"pictures": _nearest(rough, rough), "texts": _nearest(asked, rough)}
        recalls[name] = {kind: _share(found[kind], wanted[kind]) for kind in wanted}
        if min(recalls[name].values()) < _RECALL:
            absent[name] = f"of the {_NEAREST} nearest it finds {min(recalls[name].values()):.2f}"
            del contenders[name]
    return recalls


def _nearest(queries: Vectors, vectors: Vectors) -> NDArray[np.intp]:
    """The numbers of the nearest to each query, itself left out: (queries, 10)."""
    likeness = queries @ vectors.T
    if queries is vectors:
        np.fill_diagonal(likeness, -np.inf)
    return np.argsort(-likeness, axis=1)[:, :_NEAREST]


def _share(found: NDArray[np.intp], wanted: NDArray[np.intp]) -> float:
    each = [np.isin(*pair).mean() for pair in zip(wanted, found, strict=True)]
    return round(float(np.mean(each)), 3)


def _vectors(contender: Contender, work: str, count: int = 16) -> Vectors:
    return np.asarray(contender.ask(work=work, count=count, vectors=True)["vectors"], np.float32)


def contender(
    name: str, python: Path, models: Path, data: Path, threads: int, device: str = "cpu"
) -> Contender:
    """Start one that `peers.py` knows."""
    alone = "-P" if python == OURS else "-I"  # which Python 3.10 knows, too
    arguments = (name, models, data, threads, device)
    command = [str(python), alone, str(_SCRIPT), *map(str, arguments)]
    root = Path(__file__).parents[2]
    env = {"PYTHONPATH": f"{root / 'src'}:{root}" if python == OURS else ""}
    return Contender(name, command, threads=threads, log=CACHE / "bench-peers" / "log", env=env)


def environment(name: str) -> Path:
    """The Python of a peer's virtual environment, which is made where it isn't there yet."""
    version, packages = _PEERS[name]
    folder = CACHE / "bench-peers" / name
    python, uv = folder / "bin" / "python", str(Path(sys.executable).with_name("uv"))
    if not (folder / "complete").exists():
        click.echo(f"installing {name}", err=True)
        found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        wanted = str(found[-1]) if found else version
        subprocess.run([uv, "venv", "--clear", "--python", wanted, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--python", str(python), *packages], check=True)
        (folder / "complete").touch()
    return python


def write_data(data: Path) -> None:
    """Texts, and JPEGs of each size: the demo's pictures, enlarged, grainy as a camera's are."""
    (data / "texts.json").write_text(json.dumps(phrases(_TEXTS)))
    random = np.random.default_rng(0)
    originals = [
        path for path in sorted(_ORIGINALS.rglob("*.jpg")) if max(Image.open(path).size) >= 600
    ]
    (data / "gallery").mkdir()
    for path in sorted(_ORIGINALS.rglob("*.jpg")):
        (data / "gallery" / path.name).write_bytes(path.read_bytes())
    for kind, (width, height, count) in _PICTURES.items():
        (data / kind).mkdir()
        for number in range(count):
            with Image.open(originals[number % len(originals)]) as picture:
                fitted = ImageOps.fit(picture.convert("RGB"), (width, height))
            if kind != "small":
                grain = random.normal(0, 5, (height, width, 1))
                grainy = np.asarray(fitted, np.float32) + grain
                fitted = Image.fromarray(grainy.clip(0, 255).astype(np.uint8))
            jpeg = io.BytesIO()
            fitted.save(jpeg, "JPEG", quality=85)
            (data / kind / f"{number:03}.jpg").write_bytes(jpeg.getvalue())


def _table(raw: dict[str, Any], measured: dict[str, Turns]) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in raw["machine"].items())
    sentinels = [figure for turns in measured.values() for figure in turns.sentinels]
    lines = [
        "# Encoding on a CPU",
        "",
        "ViT-B-32 with seeded random weights, the same for all; batches of at most 32;"
        f" {raw['threads']} threads each. Pictures are JPEGs, decoding included; texts have 2 to"
        " 5 words. Contenders take turns, forwards and backwards; ratios are of the same turn,"
        " their median with its 95 % interval. Decoding alone is by one thread. The pictures are"
        " the demo's: cut to 640 x 428, and enlarged with grain. clip-server is not driven: it"
        " loads no weights but those that it downloads itself. A matrix product, measured"
        f" between the turns, gave {min(sentinels):.0f} to {max(sentinels):.0f} GFLOP/s."
        f" Made by `make bench-encode` on: {machine}. {raw['note']}".rstrip(),
        "",
        "| what | contender | per second | pixtide fp32, times as many | pixtide bf16"
        " | pixtide int8 | cosine |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for work, turns in measured.items():
        for name in turns.figures:
            cosine = raw["cosines"].get(name, {}).get(work, "")
            ours = _DECODERS[:1] if work.startswith("decode") else _OURS
            ratios = [str(turns.ratio(o, name)) if o in turns.figures else "" for o in ours]
            cells = [*ratios, *[""] * (len(_OURS) - len(ratios)), str(cosine)]
            label = name.removeprefix("decode: ")
            lines.append(f"| {work} | {label} | {turns.median(name):,.1f} | {' | '.join(cells)} |")
    lines += ["", "![Compared with open_clip](encode.svg)", "", *_recall_table(raw["recalls"])]
    if raw["absent"]:
        lines += ["", "Not measured:", ""]
        lines += [f"- {name}: {why}" for name, why in raw["absent"].items()]
    return "\n".join(lines) + "\n"


def _recall_table(recalls: dict[str, dict[str, float]]) -> Iterator[str]:
    if not recalls:
        return
    gallery = recalls["gallery"]
    yield from (
        f"Of the {_NEAREST} nearest in fp32 among the demo's {gallery['pictures']} pictures, the"
        f" part that is found in lower precision; below {_RECALL} it would not have been timed."
        " The weights are random here, too; the middle cosine of two pictures is"
        f" {gallery['alike']:.2f}. What a trained model of yours"
        " loses, `pixtide index compare` tells.",
        "",
        "| | nearest to a picture | nearest to a text |",
        "|---|---:|---:|",
    )
    for name in _OURS[1:]:
        if name in recalls:
            yield f"| {name} | {recalls[name]['pictures']} | {recalls[name]['texts']} |"


def _plot(measured: dict[str, Turns]) -> str:
    rows: list[tuple[str, float, float, float]] = []
    for work, turns in measured.items():
        against: Sequence[str] = [name for name in turns.figures if "open_clip" not in name]
        base = next(name for name in turns.figures if "open_clip" in name)
        for name in against:
            ratio = turns.ratio(name, base)
            label = f"{work}: {name.removeprefix('decode: ')}"
            rows.append((label, ratio.median, ratio.low, ratio.high))
    return bars(rows, x="times as many a second as open_clip")
