"""`make bench-gpu`: pictures and texts to vectors on a GPU, and its share of what the GPU can do.

Weights are random, which is as fast as trained ones and at hand offline. What the GPU can do is
measured in the same run: a matrix product of 8192 x 8192 in the same precision, and one of the
shape that most of the model's time goes to.
"""

import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from operator import itemgetter
from pathlib import Path
from typing import Any

import click
import numpy as np
import open_clip
import torch
from torch.utils.flop_counter import FlopCounterMode

from pixtide.encoders.open_clip.encoder import OpenClipEncoder
from pixtide.encoders.pictures.decoder_pool import DecoderPool
from pixtide.encoders.pictures.images import Limits
from pixtide.encoders.port import Crop
from pixtide.schemas.errors import UsageError
from tests.benchmarks import checkpoint
from tests.benchmarks.contender import Contender
from tests.benchmarks.encode import CACHE, OURS, contender, environment, write_data
from tests.benchmarks.ingest_parts import Traffic, altered, embedded, tree_mib
from tests.benchmarks.machine import describe
from tests.benchmarks.pairs import take_turns
from tests.benchmarks.words import phrases

_SIDE = 8192
_ROUNDS = 5
_BATCH = 256
_TEXT_BATCHES = (1, 32, 256)
_PEER = "infinity-emb"
#: How often it has its 32 JPEGs at once.
_TIMES = 16
#: Of ingest, in pictures: until it is warm, and what is measured then.
_WARM_UP, _STRETCH = 3_000, 8_000


def run(architectures: Sequence[str], seconds: float, note: str, out: Path) -> None:
    """Measure, and write the results as JSON and as a Markdown table."""
    if not torch.cuda.is_available():
        raise UsageError("torch finds no CUDA device here")
    machine = describe() | {"GPU": torch.cuda.get_device_name(), "torch": torch.__version__}
    raw: dict[str, Any] = {"machine": machine, "batch": _BATCH, "seconds": seconds, "note": note}
    raw["models"] = {}
    for architecture in architectures:
        models = CACHE / "benchmarks" / architecture.lower()
        checkpoint.write(models, architecture)
        ours = models / "open_clip"
        raw["models"][architecture] = (
            _measured(ours, seconds) | _against_infinity(models, seconds) | _ingested(ours)
        )
        click.echo(json.dumps(raw["models"][architecture]), err=True)
    raw["decoded_per_s"] = _decoding(seconds)
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(raw, indent=1) + "\n")
    (out / "gpu.md").write_text(_table(raw))
    click.echo((out / "gpu.md").read_text())


def _measured(folder: Path, seconds: float) -> dict[str, float]:
    encoder = _load(folder)
    side = encoder.crop.size
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (_BATCH, side, side, 3), dtype=np.uint8)
    many, each = np.concatenate([pixels] * 8), list(pixels)

    def a_batch() -> None:
        encoder.encode_pictures(np.stack(each))

    def batches() -> None:
        encoder.encode_pictures(many)

    found = {
        "pictures_per_s": _rate(batches, len(many), seconds),
        "pictures_per_s_a_batch_a_call": _rate(a_batch, _BATCH, seconds),
        "pictures_per_s_two_threads": _side_by_side(a_batch, _BATCH, seconds),
    }
    texts = phrases(_TEXT_BATCHES[-1])
    for count in _TEXT_BATCHES:
        encode = partial(encoder.encode_texts, texts[:count])
        found[f"texts_per_s_{count}"] = _rate(encode, count, seconds)
    found |= _as_open_clip_documents(folder, side, seconds)
    found |= _limits(folder, side)
    encoder = _load(folder, compiled=True)
    started = time.perf_counter()
    encoder.warm_up()
    found["compiling_s"] = time.perf_counter() - started
    found["pictures_per_s_compiled"] = _rate(batches, len(many), seconds)
    torch.cuda.empty_cache()
    return {name: round(value, 4) for name, value in found.items()}


def _against_infinity(models: Path, seconds: float) -> dict[str, Any]:
    """JPEGs in memory to vectors, by processes of their own, in turns; bf16 both."""
    threads = len(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory(prefix="pixtide-bench-") as folder,
        contextlib.ExitStack() as running,
    ):
        data = Path(folder)
        write_data(data)
        try:
            peer = environment(_PEER)
        except (OSError, subprocess.SubprocessError) as error:
            return {"absent": str(error)}
        both = [
            running.enter_context(contender(name, python, models, data, threads, "cuda"))
            for name, python in (("pixtide", OURS), (_PEER, peer))
        ]
        job = {"work": "small", "count": 32}
        vectors = [np.asarray(each.ask(**job, vectors=True)["vectors"]) for each in both]
        cosine = float((vectors[0] * vectors[1]).sum(1).min())

        def rate(each: Contender) -> float:
            return float(each.ask(**job, times=_TIMES, seconds=seconds / _ROUNDS)["per_s"])

        for each in both:
            rate(each)
        turns = take_turns({each.name: partial(rate, each) for each in both})
    return {
        "jpegs_per_s": turns.median("pixtide"),
        f"{_PEER}_jpegs_per_s": turns.median(_PEER),
        f"times_{_PEER}": turns.ratio("pixtide", _PEER).median,
        "cosine": cosine,
    }


def _ingested(model: Path) -> dict[str, Any]:
    """From the log to the index, by one worker on the embedded parts, which let in no more."""
    free, _ = torch.cuda.mem_get_info()
    settings = {
        "PIXTIDE_MODEL": f"local-dir:{model}",
        "PIXTIDE_DEVICE": "cuda",
        "PIXTIDE_PRECISION": "bf16",
        "PIXTIDE_BATCH_SIZE": str(_BATCH),
        "PIXTIDE_DECODERS": str(len(os.sched_getaffinity(0))),
    }
    with (
        tempfile.TemporaryDirectory(prefix="pixtide-bench-") as folder,
        embedded(Path(folder), **settings) as deployment,
    ):
        started = time.perf_counter()
        deployment.start_worker()
        ready_s = time.perf_counter() - started
        traffic = Traffic(deployment, altered())
        traffic.rate(_WARM_UP)
        rate = traffic.rate(_STRETCH)
        left, _ = torch.cuda.mem_get_info()
        host = tree_mib(deployment.processes["ingest"].pid)
        profile = deployment.stop_worker()
    return {
        "ingested_per_s": round(rate, 1),
        "ready_s": round(ready_s, 1),
        "GPU_MiB": round((free - left) / 2**20),
        "host_MiB": round(host),
        "profile": profile,
    }


def _load(folder: Path, *, compiled: bool = False) -> OpenClipEncoder:
    model = f"local-dir:{folder}"
    return OpenClipEncoder.load(
        model, device="cuda", precision="bf16", batch_size=_BATCH, compiled=compiled
    )


def _limits(folder: Path, side: int) -> dict[str, float]:
    """What a picture takes, and what the GPU can do of it."""
    network = open_clip.create_model(f"local-dir:{folder}", device="cuda", precision="bf16").eval()
    one = torch.zeros((1, 3, side, side), device="cuda", dtype=torch.bfloat16)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        # in training mode, as the counter doesn't know the fused attention of evaluation
        network.train().encode_image(one)
    tokens, width = network.visual.positional_embedding.shape
    return {
        "gflop_a_picture": counter.get_total_flops() / 1e9,
        "peak_tflops": _peak(_SIDE, _SIDE, _SIDE),
        "own_shape_tflops": _peak(_BATCH * tokens, width, 4 * width),
    }


def _as_open_clip_documents(folder: Path, side: int, seconds: float) -> dict[str, float]:
    """The way of open_clip's README: weights in fp32 under autocast, floats from the processor."""
    network = open_clip.create_model(f"local-dir:{folder}", device="cuda").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    planes = torch.rand((_BATCH, 3, side, side))
    texts = phrases(32)

    def pictures() -> None:
        with torch.no_grad(), torch.autocast("cuda"):
            network.encode_image(planes.to("cuda"), normalize=True).cpu()

    def words() -> None:
        with torch.no_grad(), torch.autocast("cuda"):
            network.encode_text(tokenizer(texts).to("cuda"), normalize=True).cpu()

    return {
        "open_clip_pictures_per_s": _rate(pictures, _BATCH, seconds),
        "open_clip_texts_per_s_32": _rate(words, len(texts), seconds),
    }


def _rate(work: Callable[[], object], count: int, seconds: float) -> float:
    """How many a second: the median of five rounds."""
    for _ in range(3):
        work()
    rates = []
    for _ in range(_ROUNDS):
        started, done = time.perf_counter(), 0
        while time.perf_counter() < started + seconds / _ROUNDS:
            work()
            done += count
        rates.append(done / (time.perf_counter() - started))
    return statistics.median(rates)


def _side_by_side(work: Callable[[], object], count: int, seconds: float) -> float:
    """As ingest has it: one batch is prepared while the GPU has another."""
    started, done = time.perf_counter(), [0, 0]

    def repeat(which: int) -> None:
        while time.perf_counter() < started + seconds:
            work()
            done[which] += count

    threads = [threading.Thread(target=repeat, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - started)


def _peak(rows: int, inner: int, columns: int) -> float:
    """TFLOP/s of a bf16 matrix product of that shape, of random numbers: the median of 20."""
    a = torch.randn((rows, inner), device="cuda", dtype=torch.bfloat16)
    b = torch.randn((inner, columns), device="cuda", dtype=torch.bfloat16)
    event: Any = partial(torch.cuda.Event, enable_timing=True)
    times: list[float] = []
    for turn in range(25):
        begin, end = event(), event()
        begin.record()
        torch.mm(a, b)
        end.record()
        end.synchronize()
        if turn >= 5:
            times.append(begin.elapsed_time(end) / 1000)
    return 2 * rows * inner * columns / statistics.median(times) / 1e12


def _decoding(seconds: float) -> float:
    """JPEGs a second that all cores decode and cut to 224: the demo's, of 0.26 MP in the middle."""
    folder = Path(str(files("pixtide.streams.demo"))) / "pictures"
    jpegs = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
    cores = len(os.sched_getaffinity(0))
    crop = Crop(size=224, resize=224)
    pool = DecoderPool(cores, 20, Limits())
    pool.start()
    try:
        with ThreadPoolExecutor(2 * cores) as threads:

            def all_of_them() -> None:
                list(threads.map(lambda jpeg: pool.decode(jpeg, crop), jpegs * 4))

            return round(_rate(all_of_them, 4 * len(jpegs), seconds), 1)
    finally:
        pool.close()


def _table(raw: dict[str, Any]) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in raw["machine"].items())
    models = raw["models"]
    lines = [
        "# Encoding on a GPU",
        "",
        f"From pixels in the host's memory to vectors there, in bf16, {raw['batch']} pictures a"
        " batch; texts from strings, of up to 9 tokens. Random weights. open_clip is used as its"
        " README shows: fp32 weights under autocast, floats that are copied batch by batch,"
        f" texts padded to the context length. The median of {_ROUNDS} rounds of"
        f" {raw['seconds'] / _ROUNDS:g} s. JPEGs are in memory, of 640 × 428; as ingest has it,"
        f" {raw['machine']['cores']} processes decode them, and {_PEER} decodes as it does by"
        f" itself, both in bf16. Ingested are the demo's pictures, {_STRETCH:,} of them with bytes"
        " of their own, from files that events name: broker, LanceDB, publisher and workers share"
        f" the machine. The peak is that of a bf16 matrix product of {_SIDE} ×"
        f" {_SIDE}; beside it that of the shape of the model's own largest layers. Made by"
        f" `make bench-gpu` on: {machine}. {raw['note']}".rstrip(),
        "",
        "| | " + " | ".join(models) + " |",
        "|---|" + "---:|" * len(models),
    ]

    def line(what: str, form: str, value: Callable[[dict[str, float]], float]) -> None:
        cells = [format(value(found), form) for found in models.values()]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")

    def share(key: str, of: str) -> Callable[[dict[str, float]], float]:
        return lambda found: found[key] * found["gflop_a_picture"] / 1000 / found[of]

    def times(key: str, of: str) -> Callable[[dict[str, float]], float]:
        return lambda found: found[key] / found[of]

    plain, compiled = "pictures_per_s", "pictures_per_s_compiled"
    line("pictures/s", ",.0f", itemgetter(plain))
    line("pictures/s, compiled", ",.0f", itemgetter(compiled))
    line("open_clip: pictures/s", ",.0f", itemgetter("open_clip_pictures_per_s"))
    line("times open_clip's, compiled", ".1f", times(compiled, "open_clip_pictures_per_s"))
    line("pictures/s, one batch a call", ",.0f", itemgetter("pictures_per_s_a_batch_a_call"))
    line("pictures/s, by two threads", ",.0f", itemgetter("pictures_per_s_two_threads"))
    line("GFLOP a picture", ".1f", itemgetter("gflop_a_picture"))
    line("peak, TFLOP/s", ",.0f", itemgetter("peak_tflops"))
    line("peak of its own shape, TFLOP/s", ",.0f", itemgetter("own_shape_tflops"))
    line("share of the peak", ".0%", share(plain, "peak_tflops"))
    line("share of the peak, compiled", ".0%", share(compiled, "peak_tflops"))
    line("share of its own shape's, compiled", ".0%", share(compiled, "own_shape_tflops"))
    line("seconds to compile", ".0f", itemgetter("compiling_s"))
    for count in _TEXT_BATCHES:
        line(f"texts/s, {count} at once", ",.0f", itemgetter(f"texts_per_s_{count}"))
    line("open_clip: texts/s, 32 at once", ",.0f", itemgetter("open_clip_texts_per_s_32"))
    if all(f"times_{_PEER}" in found for found in models.values()):
        line("JPEGs/s", ",.0f", itemgetter("jpegs_per_s"))
        line(f"{_PEER}: JPEGs/s", ",.0f", itemgetter(f"{_PEER}_jpegs_per_s"))
        line(f"times {_PEER}'s", ".1f", itemgetter(f"times_{_PEER}"))
        line("least cosine of their vectors", ".4f", itemgetter("cosine"))
    line("ingested/s by a worker", ",.0f", itemgetter("ingested_per_s"))
    line("GPU memory of the worker, MiB", ",.0f", itemgetter("GPU_MiB"))
    line("its memory, with its decoders', MiB", ",.0f", itemgetter("host_MiB"))
    lines += [
        "",
        f"The machine's {raw['machine']['cores']} cores decode {raw['decoded_per_s']:,.0f} JPEGs a"
        " second (the demo's, of 0.26 MP in the middle).",
    ]
    return "\n".join(lines) + "\n"
