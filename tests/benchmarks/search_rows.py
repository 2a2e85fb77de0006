"""A collection to search in: vectors in clusters, as real pictures' are, under ids and captions.

Its size and its model's text tower are real; what pictures there would be doesn't matter to how
long a search takes.
"""

from datetime import UTC, datetime

import numpy as np

from pixtide.schemas.identity import Version
from pixtide.search.answering.query_vectors import TextEncoder
from pixtide.search.port import RowState, StoredImage, Vector, VectorIndex
from tests.benchmarks.words import phrases

_CHUNK = 1000
_CLUSTER_SPREAD = 0.8


def fill(index: VectorIndex, encoder: TextEncoder, count: int, seed: int = 0) -> None:
    """Write so many live rows around the vectors of 1,000 phrases."""
    random = np.random.default_rng(seed)
    centres = encoder.encode_texts(phrases(1000, seed))
    dimension = centres.shape[1]
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        noise = random.normal(size=(size, dimension)) * _CLUSTER_SPREAD / dimension**0.5
        vectors = centres[random.integers(len(centres), size=size)] + noise
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        index.write([row(start + n, vector) for n, vector in enumerate(vectors.astype(np.float32))])


def row(number: int, vector: Vector) -> StoredImage:
    """The row of that number; its id ends in it."""
    return StoredImage(
        image_id=f"pictures/{number % 100}/{number}.jpg",
        state=RowState.LIVE,
        version=Version(1, number % 6, number),
        uri=f"s3://pictures/{number}.jpg",
        sha256=f"{number:064x}",
        width=1024,
        height=768,
        format="JPEG",
        orientation="landscape",
        bytes=200_000,
        caption=f"picture {number}",
        tags=("benchmark", f"tag {number % 50}"),
        uploaded_at=datetime(2026, 1, 1, tzinfo=UTC),
        vector=vector,
    )
