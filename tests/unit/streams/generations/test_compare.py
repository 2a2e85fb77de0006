"""The comparison of two generations, and its page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pixtide.encoders.port import Crop, Pixels
from pixtide.schemas.errors import UsageError
from pixtide.search.generations import Generation
from pixtide.search.lancedb.catalog import LanceCatalog
from pixtide.streams.generations.compare import Comparison, compare, page
from tests.contracts.samples import generation, live, towards


class Along:
    """Every text lies along one axis of eight."""

    crop = Crop(8, 8)
    device = "cpu"
    dimension = 8

    def __init__(self, fingerprint: str, axis: int) -> None:
        self.fingerprint = fingerprint
        self._axis = axis

    def warm_up(self) -> None:
        pass

    def encode_pictures(self, pixels: Pixels) -> NDArray[np.float32]:
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([towards(*np.eye(8)[self._axis])] * len(texts))

    def check_text(self, text: str) -> None:
        pass


def compared(folder: Path, queries: Sequence[str], limit: int) -> Comparison:
    """Of five rows between two axes: v1 prefers the first, v2 the second."""
    catalog = LanceCatalog(folder=folder)
    pair = (generation("v1"), generation("v2", fingerprint="sha256:other"))
    for each in pair:
        catalog.create(each)
        catalog.open(each).write(
            [live(f"<{n}>", n, towards(4.0 - n, float(n)), uri=f"at {n}") for n in range(5)]
        )

    def load(wanted: Generation) -> Along:
        return Along(wanted.fingerprint, 0 if wanted.name == "v1" else 1)

    return compare(catalog, pair, load, queries, limit)


def test_overlap_and_places_moved(tmp_path: Path) -> None:
    comparison = compared(tmp_path, ["a", "b"], limit=3)
    first = comparison.compared[0]
    assert [result.image_id for result in first.first] == ["<0>", "<1>", "<2>"]
    assert [result.image_id for result in first.second] == ["<4>", "<3>", "<2>"]
    assert first.overlap == pytest.approx(1 / 3)
    assert first.rank_change == 0
    sums = comparison.as_json()
    assert (sums["queries"], sums["overlap@3"], sums["rank_change"]) == (2, 0.3333, 0)
    assert min(sums["median_ms"]) > 0
    assert sums["recall@3"] == [1, 1]

    moved = compared(tmp_path / "all", ["a"], limit=5).compared[0]
    assert moved.overlap == 1
    assert moved.rank_change == pytest.approx((4 + 2 + 0 + 2 + 4) / 5)


def test_the_page_shows_both_rows_and_needs_nothing_else(tmp_path: Path) -> None:
    comparison = compared(tmp_path, ["<script>"], limit=3)
    asked: list[str] = []

    def thumbnail(uri: str) -> bytes | None:
        asked.append(uri)
        return None if uri == "at 0" else b"jpeg"

    shown = page(comparison, thumbnail)
    assert asked == ["at 0", "at 1", "at 2", "at 4", "at 3", "at 2"]
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert shown.count("data:image/jpeg;base64,anBlZw==") == 5
    assert shown.count("class=none") == 1
    assert shown.count("class=only") == 4
    assert "recall 1.00 and 1.00" in shown
    assert "finds 100.0% and 100.0%" in shown
    assert "http" not in shown


def test_no_query_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no query"):
        compared(tmp_path, [], limit=3)
    with pytest.raises(UsageError, match="EMPTY_QUERY"):
        compared(tmp_path / "other", ["\t"], limit=3)
