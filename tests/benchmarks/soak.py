"""`make bench-soak`: whether the query consumer's memory stays flat under everything at once.

Texts old and new, words, filters, pictures by id and by bytes, and requests that can't be served,
on the embedded parts; the consumer's resident memory is read every few seconds.
"""

import base64
import contextlib
import itertools
import json
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from pixtide.schemas.queries import AttributeFilter, Filters, SearchReply, SearchRequest, Term
from pixtide.streams.client.blocking import SearchClient
from pixtide.streams.wiring.adapters import load_encoder
from pixtide.streams.wiring.clients import search_client
from tests.benchmarks.machine import describe, resident_mib
from tests.benchmarks.search_rows import fill
from tests.benchmarks.words import phrases, zipf
from tests.support.deployments import Embedded
from tests.support.pictures import jpeg

_WINDOW = 48
_EVERY_S = 5.0
#: Caches fill and threads start before memory can be flat.
_WARM_UP = 0.4
#: So small that it is full before then: what grows after that is no cache.
_REPLY_CACHE_BYTES = 4 * 2**20
_TEXTS = phrases(8000)
_POPULAR = [_TEXTS[n] for n in zipf(5000, 100_000)]


def _picture(number: int) -> Term:
    return Term(data_base64=base64.b64encode(jpeg(number % 500, 256)).decode())


#: Each kind of request: how often of 100 it is asked, the nth of it, and what it is answered with.
_KINDS: dict[str, tuple[int, Callable[[int], SearchRequest], str]] = {
    "popular text": (40, lambda n: SearchRequest(text=_POPULAR[n % len(_POPULAR)]), "OK"),
    "new text": (15, lambda n: SearchRequest(text=f"{_TEXTS[n % 8000]} {n}"), "OK"),
    "hybrid": (8, lambda n: SearchRequest(text=f"picture {n}", mode="hybrid"), "OK"),
    "keyword": (5, lambda n: SearchRequest(text=f"picture {n}", mode="keyword"), "OK"),
    "filtered": (
        8,
        lambda n: SearchRequest(
            text=_TEXTS[n % 8000], filters=Filters(tags_any=(f"tag {n % 50}",)), limit=50
        ),
        "OK",
    ),
    "newest, collapsed": (
        4,
        lambda n: SearchRequest(text=_TEXTS[n % 8000], sort="newest", collapse_above=0.98),
        "OK",
    ),
    "like": (8, lambda n: SearchRequest(terms=(Term(image_id=_image_id(n)),)), "OK"),
    "picture": (4, lambda n: SearchRequest(terms=(_picture(n),), with_vectors=True), "OK"),
    "unknown image": (2, lambda n: SearchRequest(terms=(Term(image_id=f"{n}"),)), "UNKNOWN_IMAGE"),
    "bad picture": (2, lambda _: SearchRequest(terms=(Term(data_base64="aGk="),)), "BAD_PICTURE"),
    "bad cursor": (2, lambda n: SearchRequest(text="a", cursor=f"{n}"), "INVALID_CURSOR"),
    "bad filter": (
        1,
        lambda n: SearchRequest(
            text="a", filters=Filters(attributes=(AttributeFilter(name=f"a{n}", eq=1),))
        ),
        "INVALID_FILTER",
    ),
    "too long": (1, lambda n: SearchRequest(text=f"word {n} " * 300), "QUERY_TOO_LONG"),
}


def _image_id(number: int) -> str:
    return f"pictures/{number % 100}/{number % 10_000}.jpg"


@dataclass
class Soak:
    """What was asked and answered, and the memory in MiB at each time in seconds."""

    asked: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """MiB a minute after the warm-up: least squares."""
        end = self.memory[-1][0]
        settled = [each for each in self.memory if each[0] >= end * _WARM_UP]
        seconds, sizes = np.array(settled).T
        return float(np.polyfit(seconds / 60, sizes, 1)[0])


def run(rows: int, seconds: float, out: Path) -> None:
    """Soak, and write the results as JSON and as a Markdown table."""
    with tempfile.TemporaryDirectory(prefix="pixtide-soak-") as folder:
        small = {"PIXTIDE_REPLY_CACHE_BYTES": str(_REPLY_CACHE_BYTES)}
        stack = Embedded(Path(folder) / "home", **small)
        try:
            stack.start()
            with stack.index() as index:
                fill(index, load_encoder(stack.settings(), "starter"), rows)
            consumer = _query_consumer_of(stack.processes["up"].pid)
            with search_client(stack.settings(), timeout_s=30) as client:
                soak = _soak(client, consumer, seconds)
        finally:
            stack.stop()
    out.mkdir(parents=True, exist_ok=True)
    raw = {"machine": describe(), "rows": rows, "seconds": seconds, "memory": soak.memory}
    raw |= {"asked": soak.asked, "unexpected": soak.unexpected}
    (out / "soak.json").write_text(json.dumps(raw, indent=1) + "\n")
    (out / "soak.md").write_text(table(soak, rows, seconds))
    click.echo((out / "soak.md").read_text())


def _soak(client: SearchClient, consumer: int, seconds: float) -> Soak:
    soak = Soak()
    kinds: deque[str] = deque()
    began = time.monotonic()

    def asked() -> Iterator[SearchRequest]:
        shares = [share for share, _, _ in _KINDS.values()]
        random = np.random.default_rng(0)
        order = random.permutation(np.repeat(np.arange(len(_KINDS)), shares))
        names = list(_KINDS)
        for place in itertools.cycle(order):
            if time.monotonic() - began > seconds:
                return
            kind = names[place]
            kinds.append(kind)
            yield _KINDS[kind][1](soak.asked[kind] + len(kinds))

    for reply in client.search_many(asked(), window=_WINDOW):
        kind = kinds.popleft()
        soak.asked[kind] += 1
        if (code := _code(reply)) != _KINDS[kind][2]:
            soak.unexpected[f"{kind}: {code}"] += 1
        passed = time.monotonic() - began
        if passed >= len(soak.memory) * _EVERY_S:
            soak.memory.append((round(passed, 1), resident_mib(consumer)))
    return soak


def _code(reply: SearchReply) -> str:
    return "OK" if reply.error is None else str(reply.error.code)


def _query_consumer_of(parent: int) -> int:
    """The process id of the stack's query consumer."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            if b"\0query\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise RuntimeError("the stack has no query consumer")


def table(soak: Soak, rows: int, seconds: float) -> str:
    """Memory by the half minute, and what was asked."""
    total = sum(soak.asked.values())
    wrong = ", ".join(f"{what}: {n}" for what, n in soak.unexpected.items()) or "none"
    lines = [
        "# Memory under a mixed load",
        "",
        f"{seconds:g} s of mixed searches, {_WINDOW} at a time, over {rows:,} vectors on the"
        f" embedded parts with a reply cache of {_REPLY_CACHE_BYTES // 2**20} MiB: {total:,}"
        f" requests, {total / seconds:,.0f}/s. Unexpected replies: {wrong}."
        f" After the first {_WARM_UP:.0%}, in which caches fill, the query consumer's"
        f" resident memory changes by **{soak.slope:+.2f} MiB a minute**. Made by"
        " `make bench-soak` on: "
        + ", ".join(f"{name} {value}" for name, value in describe().items())
        + ".",
        "",
        "| s | MiB |",
        "|---:|---:|",
    ]
    every = soak.memory[:: round(30 / _EVERY_S)]
    lines += [f"| {passed:.0f} | {size:.0f} |" for passed, size in every]
    lines += ["", "| asked | times | answered with |", "|---|---:|---|"]
    lines += [f"| {kind} | {soak.asked[kind]:,} | {_KINDS[kind][2]} |" for kind in _KINDS]
    return "\n".join(lines) + "\n"
