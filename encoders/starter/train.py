"""Makes `classes.npy` and `concepts.npz`, the trained part of the starter model. Run it as

    python -m pixtide.encoders.starter.train --wordnet FOLDER --emoji FOLDER

1. describe   each ImageNet class by three sentences: its names, its names with WordNet's gloss,
              and its kinds; the class's vector is their mean
2. read       WordNet's nouns for things that can be photographed; each word in its most common
              sense
3. train      a linear map of the classes' vectors, so that a word is as near to a class as they
              are similar in WordNet; a tenth of the nouns is held out
4. write      the classes' vectors, as the mean of mapped and unmapped, and the loss as a picture
5. draw       views of what emoji show, fit a classifier to EfficientNet's features of them, and
              write it with the concepts' vectors

The folders hold WordNet 3.0's `data.noun` and `index.noun`, and packages of emoji; DATA.md says
where to get them. Sentence vectors and features are stored in the work folder, so a run that was
stopped continues after the last of these steps that it had done. Everything random is seeded.
Another machine's arithmetic still differs in the last bits, so vectors come out similar (cosine
above 0.999), but not byte for byte the same.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from rich.progress import track
from timm.data.imagenet_info import ImageNetInfo
from torch.nn import functional

from pixtide.encoders.device import Device
from pixtide.encoders.port import Vectors
from pixtide.encoders.starter import encoder
from pixtide.encoders.starter.classes import CONCEPTS_FILE, FILE
from pixtide.encoders.starter.concepts import features, fitted, found_held_out
from pixtide.encoders.starter.emoji import concepts
from pixtide.encoders.starter.towers import SentenceEncoder
from pixtide.encoders.starter.wordnet import VISIBLE, WordNet

_SEED = 1
_NOUNS = 9000
_WORDS_OF_A_NOUN = 2
_HELD_OUT = 0.1
_EPOCHS = 6
_BATCH = 256
#: How much similar classes stand out among the others that a word should be near to.
_TEMPERATURE = 0.05
#: Weight decay; keeps the map close to the identity.
_DECAY = 1e-2
_MAPPED_SHARE = 0.5
_SHOWN = 512


@dataclass(frozen=True)
class Lesson:
    """Word vectors (n, 384) and their similarity to each class (n, 1000), as shares of 1."""

    words: torch.Tensor
    shares: torch.Tensor


@dataclass
class Losses:
    """Cross entropies in nats: for each training step, and on held-out nouns after each epoch."""

    steps: list[float]
    held_out: list[float]


@click.command(help=__doc__)
@click.option("--wordnet", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--emoji", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/starter"))
def main(wordnet: Path, emoji: Path, work: Path) -> None:
    """Train, and write `classes.npy`, `loss.svg` and `concepts.npz` beside this file."""
    torch.manual_seed(_SEED)
    work.mkdir(parents=True, exist_ok=True)
    known = WordNet(wordnet)
    classes = _described(known, work)
    training, held_out = _lessons(known, work)
    mapped, losses = _trained(training, held_out, classes)
    shipped = _rescaled((1 - _MAPPED_SHARE) * classes + _MAPPED_SHARE * mapped)
    np.save(FILE, shipped.numpy().astype(np.float16))
    (work / "losses.json").write_text(
        json.dumps({"steps": losses.steps, "held out": losses.held_out})
    )
    FILE.with_name("loss.svg").write_text(_curve(losses))
    click.echo(f"held out: {losses.held_out[0]:.3f} before, {losses.held_out[-1]:.3f} after")
    _write_concepts(emoji, work)
    for file in (FILE, CONCEPTS_FILE):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        click.echo(f"sha256 of {file.name}, for classes.py: {digest}")


def _write_concepts(folder: Path, work: Path) -> None:
    known = concepts(folder)
    names, told = zip(*(concept.sentences for concept in known), strict=True)
    name_vectors, told_vectors = _sentences([*names, *told], work / "concepts.npy").chunk(2)
    vectors = functional.normalize(name_vectors + told_vectors).numpy()
    rows = features(folder, known, _SEED, work)
    first, among_ten = found_held_out(rows, vectors, name_vectors.numpy())
    click.echo(f"emoji held out, by their names: first {first:.2f}, among ten {among_ten:.2f}")
    fitting = fitted(rows, vectors)
    head, bias, vectors = (
        array.astype(np.float16) for array in (fitting.head, fitting.bias, fitting.vectors)
    )
    np.savez(CONCEPTS_FILE, head=head, bias=bias, vectors=vectors)


def _described(known: WordNet, work: Path) -> torch.Tensor:
    """The classes' vectors before training, (1000, 384), of mean length 1."""
    info = ImageNetInfo()
    names = [info.index_to_description(place) for place in range(1000)]
    glosses = [info.index_to_description(place, detailed=True) for place in range(1000)]
    kinds = [_placed(known, number) for number in _class_numbers()]
    vectors = _sentences([*names, *glosses, *kinds], work / "classes.npy").view(3, 1000, -1)
    return _rescaled(vectors.sum(0))


def _placed(known: WordNet, number: str) -> str:
    words, kinds = known.nouns[number].words[:3], known.kinds(number)[:5]
    return f"{', '.join(words)}: a kind of {', '.join(kinds)}"


def _lessons(known: WordNet, work: Path) -> tuple[Lesson, Lesson]:
    """The training lesson, and the held-out lesson."""
    pairs = sorted(
        (noun.number, word)
        for noun in known.nouns.values()
        if noun.field in VISIBLE
        for word in noun.words[:_WORDS_OF_A_NOUN]
        if known.is_first_sense(noun, word)
    )
    chosen = torch.randperm(len(pairs))[:_NOUNS].tolist()
    numbers, words = zip(*(pairs[place] for place in chosen), strict=True)
    vectors = _sentences(words, work / "nouns.npy")
    alike = torch.from_numpy(known.likeness(numbers, _class_numbers()))
    shares = (alike / _TEMPERATURE).softmax(1)
    cut = round(_HELD_OUT * _NOUNS)
    return Lesson(vectors[cut:], shares[cut:]), Lesson(vectors[:cut], shares[:cut])


def _class_numbers() -> list[str]:
    names: list[str] = ImageNetInfo().label_names()  # type: ignore[no-untyped-call]
    return [name.removeprefix("n") for name in names]


def _trained(
    training: Lesson, held_out: Lesson, classes: torch.Tensor
) -> tuple[torch.Tensor, Losses]:
    """The classes' vectors after mapping, and the course of the loss."""
    directions = functional.normalize(classes)
    directions = directions - directions.mean(0)
    change = torch.zeros((384, 384), requires_grad=True)  # what the map adds to the identity
    scale = torch.tensor(math.log(20.0), requires_grad=True)

    def loss_of(lesson: Lesson) -> torch.Tensor:
        moved = lesson.words + lesson.words @ change.T
        guess = (scale.exp() * (moved @ directions.T)).log_softmax(1)
        return -(lesson.shares * guess).sum(1).mean()

    optimiser = torch.optim.Adam([change, scale], lr=1e-3)
    losses = Losses([], [float(loss_of(held_out).detach())])
    for _ in track(range(_EPOCHS), "training"):
        for batch in _batches(training):
            optimiser.zero_grad()
            loss = loss_of(batch)
            (loss + _DECAY * change.square().sum()).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.steps.append(float(loss.detach()))
        losses.held_out.append(float(loss_of(held_out).detach()))
    mapped = _rescaled((classes + classes @ change).detach())
    return mapped, losses


def _batches(lesson: Lesson) -> Iterator[Lesson]:
    order = torch.randperm(len(lesson.words))
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        yield Lesson(lesson.words[rows], lesson.shares[rows])


def _rescaled(vectors: torch.Tensor) -> torch.Tensor:
    rescaled: torch.Tensor = vectors / vectors.norm(dim=1).mean()
    return rescaled


def _sentences(texts: Sequence[str], kept: Path) -> torch.Tensor:
    """Unit vectors (n, 384), from the work folder if they were made of the same texts."""
    key = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    kept = kept.with_stem(f"{kept.stem}-{key}")
    if kept.exists():
        return torch.from_numpy(np.load(kept))
    device = Device.pick("cpu", "fp32", 64)
    folder = encoder.verified_sentences()
    encode = SentenceEncoder(folder, device.torch_device, device.dtype)
    order = sorted(
        range(len(texts)), key=lambda place: len(texts[place])
    )  # alike in length together
    vectors: Vectors = np.empty((len(texts), 384), dtype=np.float32)
    for start in track(range(0, len(texts), _SHOWN), f"reading {len(texts)} texts"):
        rows = order[start : start + _SHOWN]
        chosen = [texts[row] for row in rows]
        vectors[rows] = device.encode(len(rows), 384, partial(_read, encode, chosen))
    np.save(kept, vectors)
    return torch.from_numpy(vectors)


def _read(encode: SentenceEncoder, texts: Sequence[str], batch: slice) -> torch.Tensor:
    return encode(texts[batch])


def _curve(losses: Losses) -> str:
    """The losses as a picture: a line for the steps, a dot for each held-out check."""
    width, height, margin = 600, 300, 40
    low = min(*losses.steps, *losses.held_out) - 0.05
    high = max(*losses.steps, *losses.held_out) + 0.05

    def at(done: float, loss: float) -> str:
        x = margin + done * (width - 2 * margin)
        return (
            f"{x:.1f},{height - margin - (loss - low) / (high - low) * (height - 2 * margin):.1f}"
        )

    line = " ".join(at(step / len(losses.steps), loss) for step, loss in enumerate(losses.steps))
    spots = [at(epoch / _EPOCHS, loss).split(",") for epoch, loss in enumerate(losses.held_out)]
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="4" fill="#c33"/>' for x, y in spots)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        f'<polyline points="{line}" fill="none" stroke="#36c"/>{dots}'
        f'<text x="{margin}" y="20">cross entropy in nats, {high:.2f} to {low:.2f}: '
        "training steps (line), held out (dots)</text>"
        f'<text x="{margin}" y="{height - 12}">{_EPOCHS} epochs, {len(losses.steps)} steps</text>'
        "</svg>\n"
    )


if __name__ == "__main__":
    main()
