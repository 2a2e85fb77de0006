"""`make bench-story`: four ways of finding the demo's pictures by words, compared.

1. words      TF-IDF over their captions: what search engines did before there were models
2. names      TF-IDF over the names of what an image classifier sees in them
3. one space  a model that puts words and pictures into one space, as pixtide does
4. hybrid     the first and the third, their ranks fused as pixtide fuses them

What a query means was judged by hand, by looking at the pictures: see `story_queries.py`.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from pixtide.encoders.pictures.images import Limits, decode
from pixtide.encoders.port import Encoder, Vectors
from pixtide.encoders.starter import encoder as starter
from pixtide.encoders.starter.towers import load_classifier
from pixtide.schemas.identity import Version
from pixtide.schemas.queries import SearchRequest
from pixtide.search.answering.ranking import rank
from pixtide.search.background import Background
from pixtide.search.port import Hit, RowState, StoredImage, Vector, WordHit
from pixtide.streams.demo.captions import captions
from pixtide.streams.settings import Settings
from pixtide.streams.wiring.adapters import load_encoder
from tests.benchmarks.machine import describe
from tests.benchmarks.story_queries import QUERIES, relevant

PICTURES = Path(str(files("pixtide.streams.demo") / "pictures"))
#: Names of a picture's likeliest classes that are taken down as its words.
_NAMES = 3
_SHOWN = 5
#: Searches whose automatic cutoff is looked at: one thing, many things, and what isn't there.
CUT = ("a cat", "a castle", "a fish", "a building", "an animal", "food", "an elephant", "a bicycle")
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Collection:
    """The demo's pictures: ids, and what each way of searching knows of them."""

    ids: Sequence[str]
    captions: Sequence[str]
    names: Sequence[str]
    vectors: Vectors


def run(model: str, out: Path) -> None:
    """Measure, and write table and results into a folder."""
    encoder = load_encoder(Settings(device="cpu"), model)
    collection = look(encoder)

    def meant(query: str) -> Scores:
        similarities: Scores = collection.vectors @ encoder.encode_texts([query])[0]
        return similarities

    ids, worded, named = collection.ids, tf_idf(collection.captions), tf_idf(collection.names)
    found = {
        "words": {query: best(worded(query), ids) for query in QUERIES},
        "names": {query: best(named(query), ids) for query in QUERIES},
        "one space": {query: best(meant(query), ids) for query in QUERIES},
        "hybrid": {query: fused(query, meant(query), worded(query), ids) for query in QUERIES},
    }
    cut = [_cut(text, collection, encoder) for text in CUT]
    report = table(model, found, cut)
    (out / "story.md").write_text(report)
    seen = dict(zip(collection.ids, collection.names, strict=True))
    results = {"model": model, "first": _first(found), "cutoff": cut, "names": seen}
    (out / "story.json").write_text(json.dumps(results, indent=1) + "\n")
    click.echo(report)


def look(encoder: Encoder) -> Collection:
    """The pictures, as each way sees them."""
    shows = captions()
    ids = sorted(shows)
    pictures = [decode((PICTURES / name).read_bytes(), encoder.crop, Limits()) for name in ids]
    vectors = encoder.encode_pictures(np.stack([picture.pixels for picture in pictures]))
    return Collection(ids, [shows[name] for name in ids], list(_seen(ids)), vectors)


def _seen(ids: Iterable[str]) -> Iterator[str]:
    """The names of the classes that the starter's classifier finds likeliest."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    network = load_classifier(starter._verified(*starter._CLASSIFIER))
    for name in ids:
        picture = decode((PICTURES / name).read_bytes(), starter.StarterEncoder.crop, Limits())
        planes = torch.from_numpy(picture.pixels).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            likeliest = network((planes - 127) / 128)[0].topk(_NAMES).indices
        yield "; ".join(str(info.index_to_description(int(place))) for place in likeliest)


def tf_idf(texts: Sequence[str]) -> Callable[[str], Scores]:
    """Cosines of a query with texts by their words, weighed by how rare each is.

    As Salton and Buckley 1988 (doi:10.1016/0306-4573(88)90021-0), with the usual smoothing.
    """
    documents = [Counter(_words(text)) for text in texts]
    vocabulary = {word: place for place, word in enumerate(sorted(set().union(*documents)))}
    seen = Counter(word for document in documents for word in document)
    rarity = {word: np.log((1 + len(texts)) / (1 + n)) + 1 for word, n in seen.items()}

    def vector(words: Counter[str]) -> Scores:
        made = np.zeros(len(vocabulary), np.float32)
        for word, n in words.items():
            if word in vocabulary:
                made[vocabulary[word]] = n * rarity[word]
        return made / max(float(np.linalg.norm(made)), 1e-9)

    matrix = np.stack([vector(document) for document in documents])
    return lambda query: matrix @ vector(Counter(_words(query)))


def _words(text: str) -> list[str]:
    """Words as a simple search engine has them: small letters, no articles, no plural s."""
    found = re.findall(r"\w+", text.lower())
    return [word.removesuffix("s") for word in found if word not in {"a", "an", "the"}]


def best(scores: Scores, ids: Sequence[str]) -> list[str]:
    """The ids whose score is more than nothing, best first."""
    order = np.argsort(-scores, kind="stable")
    return [ids[place] for place in order if scores[place] > 0]


def fused(query: str, meant: Scores, worded: Scores, ids: Sequence[str]) -> list[str]:
    """Both rankings in one, as `mode: hybrid` has them."""
    rows = {name: _row(name) for name in ids}
    near = {name: float(score) for name, score in zip(ids, meant, strict=True)}
    hits = [Hit(row, near[name]) for name, row in rows.items()]
    words = [
        WordHit(rows[name], float(score)) for name, score in zip(ids, worded, strict=True) if score
    ]
    request = SearchRequest(text=query, mode="hybrid")
    ranked = rank(request, np.zeros(1, np.float32), hits, words, None)
    return [one.row.image_id for one in ranked]


def _row(image_id: str, vector: Vector | None = None) -> StoredImage:
    return StoredImage(image_id, RowState.LIVE, Version(0, 0, 0), vector=vector)


class _Pictures:
    """Just enough of an index for the automatic cutoff."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def sample(self, most: int, random: np.random.Generator) -> Vectors:
        return self._vectors[random.permutation(len(self._vectors))[:most]]

    def count(self) -> dict[RowState, int]:
        return {RowState.LIVE: len(self._vectors)}


def _cut(text: str, collection: Collection, encoder: Encoder) -> dict[str, object]:
    [direction] = encoder.encode_texts([text])
    pictures, random = _Pictures(collection.vectors), np.random.default_rng(0)
    least = Background(pictures, random=random).cutoff(direction)  # type: ignore[arg-type]
    similarities = collection.vectors @ direction
    return {
        "text": text,
        "best": round(float(similarities.max()), 2),
        "middle": round(float(np.median(similarities)), 2),
        "cutoff": round(least, 2),
        "kept": int((similarities >= least).sum()),
    }


def _first(found: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
    return {
        way: {query: ids[:_SHOWN] for query, ids in by_query.items()}
        for way, by_query in found.items()
    }


def cut_row(cut: dict[str, object]) -> str:
    """As a table has it."""
    figures = " | ".join(f"{cut[name]:.2f}" for name in ("best", "middle", "cutoff"))
    return f"| {cut['text']} | {figures} | {cut['kept']} |"


def table(
    model: str, found: dict[str, dict[str, list[str]]], cut: Sequence[dict[str, object]]
) -> str:
    """What each way found of what it should have, among as many first results."""
    ids = captions()
    hits: dict[str, list[float]] = {way: [] for way in found}
    rows = []
    for query in QUERIES:
        wanted = relevant(query, ids)
        counts = {
            way: len(wanted & set(by_query[query][: len(wanted)]))
            for way, by_query in found.items()
        }
        for way, count in counts.items():
            hits[way].append(count / len(wanted))
        cells = " | ".join(str(count) for count in counts.values())
        rows.append(f"| {query} | {len(wanted)} | {cells} |")
    shares = " | ".join(f"**{np.mean(share):.0%}**" for share in hits.values())
    nothing = " | ".join(str(sum(s == 0 for s in share)) for share in hits.values())
    machine = ", ".join(f"{name} {value}" for name, value in describe().items())
    lines = [
        "# Words, names, one space",
        "",
        f"Searches in the demo's {len(ids)} pictures. Of a query's n pictures, judged by hand, how"
        " many are among the first n results: by the words of captions (TF-IDF), by the names of"
        f" the {_NAMES} likeliest ImageNet classes (TF-IDF), in the one space of the model"
        f" `{model}`, and by words and space together, their ranks fused. Made by"
        " `make bench-story` (`ARGS='--model …'` for another model) on:"
        f" {machine}.",
        "",
        "| query | pictures | words | names | one space | hybrid |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
        f"| **mean share** | | {shares} |",
        f"| queries that find none | | {nothing} |",
        "",
        "The automatic cutoff on the same pictures: the best similarity, the middle of all, the"
        " least that passes, and how many do.",
        "",
        "| query | best | middle | cutoff | kept |",
        "|---|---:|---:|---:|---:|",
        *map(cut_row, cut),
    ]
    return "\n".join(lines) + "\n"
