"""What every `VectorIndex` gives as a sample, and the automatic cutoff that is told by it."""

from dataclasses import replace

import numpy as np
import pytest

from pixtide.schemas.identity import Version
from pixtide.search.background import Background
from pixtide.search.port import VectorIndex
from tests.contracts.samples import DIMENSION, deleted, live, poisoned, towards

DOG = towards(1)


def test_each_live_row_is_as_likely_as_another(index: VectorIndex) -> None:
    assert index.sample(10, np.random.default_rng(0)).shape == (0, DIMENSION)
    index.write([live(f"l{n}", n, towards(1, n)) for n in range(1500)])
    index.write([deleted(f"l{n}", 2000) for n in range(100, 900)])
    index.write([poisoned(f"p{n}", n) for n in range(50)])
    index.remove({"l0": Version(1, 0, 0), "l150": Version(1, 0, 2000)})
    number = {n: round(float(towards(1, n)[1] / towards(1, n)[0])) for n in range(1500)}
    assert len(set(number.values())) == 1500

    def taken(seed: int, most: int) -> list[int]:
        vectors = index.sample(most, np.random.default_rng(seed))
        assert vectors.dtype == np.float32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
        return [round(float(vector[1] / vector[0])) for vector in vectors]

    there = {*range(1, 100), *range(900, 1500)}
    assert sorted(taken(0, 1000)) == sorted(there)
    assert sorted(taken(1, len(there))) == sorted(there)
    samples = [taken(seed, 100) for seed in range(12)]
    assert all(len(sample) == len(set(sample)) == 100 for sample in samples)
    assert all(set(sample) <= there for sample in samples)
    assert taken(5, 100) == samples[5], "the same row for the same chance"
    assert samples[0] != samples[1]
    times = np.bincount([n for sample in samples for n in sample], minlength=1500)
    # 12 samples of 100 among 699: each about twice, and of the first 99 as many as of others
    assert (times > 0).sum() > 450
    assert times.max() <= 9
    assert times[:100].sum() / times.sum() == pytest.approx(99 / 699, abs=0.08)


@pytest.mark.parametrize(
    ("order", "dogs"), [("dogs first", 600), ("dogs last", 40), ("shuffled", 600)]
)
def test_the_cutoff_is_the_same_whatever_came_first(
    index: VectorIndex, order: str, dogs: int
) -> None:
    rng = np.random.default_rng(7)
    others = rng.normal(size=(3000 - dogs, DIMENSION)) * 0.1
    others[:, 5:] += 1 / 3**0.5
    alike = rng.normal(size=(dogs, DIMENSION)) * 0.02
    alike[:, 0] += 1
    rows = [live(f"dog {n}", 0, towards(*axes)) for n, axes in enumerate(alike)]
    unlike = [live(f"other {n}", 0, towards(*axes)) for n, axes in enumerate(others)]
    rows = unlike + rows if order == "dogs last" else rows + unlike
    if order == "shuffled":
        rows = [rows[place] for place in rng.permutation(len(rows))]
    index.write([replace(row, version=Version(1, 0, n)) for n, row in enumerate(rows)])
    cutoff = Background(index, random=np.random.default_rng(3)).cutoff(DOG)
    vectors = {row.image_id: row.vector for row in rows}
    kept = [
        name for name, vector in vectors.items() if vector is not None and vector @ DOG >= cutoff
    ]
    assert sum(name.startswith("dog") for name in kept) == dogs
    assert sum(name.startswith("other") for name in kept) <= 10
