"""Trains the starter model's concepts: what emoji show, as further classes of its classifier.

It is a linear classifier by ridge regression, on the features that EfficientNet-Lite0 computes of
drawings. It is solved directly, so it has no epochs, and no random seed except that of the
drawings.
"""

from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from pixtide.encoders.device import Device, Normalisation
from pixtide.encoders.port import Vectors
from pixtide.encoders.starter import emoji, encoder
from pixtide.encoders.starter.classes import Concepts
from pixtide.encoders.starter.towers import ConceptMixer, load_classifier, looks

_RIDGE = 1.0
#: How much the likeliest concept stands out.
_SHARPNESS = 80.0
#: The length of a concept's vector, relative to the ImageNet classes', which is 1.
_SHARE = 0.2
_HELD_OUT = 10
_BLOCK = 100


def features(folder: Path, known: list[emoji.Concept], seed: int, work: Path) -> Vectors:
    """For every view of every concept: its index in `known`, then 1280 features, (n, 1281).

    A hundred concepts at a time are stored in the work folder, and not computed again.
    """
    device = Device.pick("cpu", "fp32", _BLOCK)
    normalised = Normalisation(device, encoder.MEAN, encoder.STD)
    network = load_classifier(encoder.verified_classifier())[:-1]
    network = network.to(memory_format=torch.channels_last)

    def seen(place: int) -> Vectors:
        pixels = list(emoji.views(folder, known[place], seed))
        if not pixels:
            return np.empty((0, 1281), dtype=np.float32)
        with torch.inference_mode():
            rows: Vectors = network(normalised(np.stack(pixels))).numpy()
        return np.insert(rows, 0, place, axis=1)

    blocks = []
    for start in track(range(0, len(known), _BLOCK), f"looking at {len(known)} emoji"):
        kept = work / f"emoji-{start}.npy"
        if not kept.exists():
            places = range(start, min(start + _BLOCK, len(known)))
            np.save(kept, np.concatenate([seen(place) for place in places]))
        blocks.append(np.load(kept))
    return np.concatenate(blocks)


def fitted(rows: Vectors, vectors: Vectors) -> Concepts:
    """The concepts, from the result of `features` and the concepts' unit vectors (n, 384)."""
    shown, seen = rows[:, 0].astype(int), looks(torch.from_numpy(rows[:, 1:])).numpy()
    middle = seen.mean(0)
    wanted = np.eye(len(vectors), dtype=np.float32)[shown]
    centred = seen - middle
    products = centred.T @ centred + _RIDGE * np.eye(seen.shape[1], dtype=np.float32)
    solved = np.linalg.solve(products, centred.T @ (wanted - wanted.mean(0)))
    head = (_SHARPNESS * solved).astype(np.float32)
    return Concepts(head, -middle @ head, _SHARE * (vectors - vectors.mean(0)))


def found_held_out(rows: Vectors, vectors: Vectors, names: Vectors) -> tuple[float, float]:
    """For held-out concepts' views: how often their name is nearest, and among the ten nearest.

    Every tenth concept is held out; only the names (n, 384) of those are candidates.
    """
    held_out = np.arange(len(vectors)) % _HELD_OUT == 0
    is_held_out = held_out[rows[:, 0].astype(int)]
    trained = fitted(rows[~is_held_out], vectors)
    seen = torch.from_numpy(rows[is_held_out, 1:])
    mixed = ConceptMixer(trained, torch.device("cpu"))(seen).numpy()
    likenesses = mixed @ names[held_out].T
    right = np.flatnonzero(held_out).searchsorted(rows[is_held_out, 0])
    nearer = (likenesses > likenesses[np.arange(len(right)), right][:, None]).sum(1)
    return float((nearer < 1).mean()), float((nearer < 10).mean())
