"""The open_clip adapter on a tiny random model; no network, no GPU."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.factory import _find_checkpoint_in_dir
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from pixtide.encoders.device import Device, unit_rows
from pixtide.encoders.open_clip import model_files
from pixtide.encoders.open_clip.encoder import OpenClipEncoder, count_tokens, crop_of
from pixtide.encoders.open_clip.model_files import load_model
from pixtide.encoders.open_clip.text import encode_text
from pixtide.encoders.port import Crop, Encoder, Pixels
from pixtide.schemas.errors import FatalError, QueryCode, RequestError, TransientError, UsageError
from tests.support.models import CONTEXT_LENGTH, IMAGE_SIZE, tiny_clip

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 0, 0), (255, 255, 255)]
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_clip(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> OpenClipEncoder:
    return load(folder)


def load(folder: Path, **options: Any) -> OpenClipEncoder:
    options = {"precision": "fp32"} | options
    return OpenClipEncoder.load(f"local-dir:{folder}", device="cpu", **options)


def plain(*colours: Sequence[int]) -> Pixels:
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    return np.stack([np.broadcast_to(np.array(c, np.uint8), shape) for c in colours])


def noise(count: int) -> Pixels:
    shape = (count, IMAGE_SIZE, IMAGE_SIZE, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_is_an_encoder(encoder: Encoder) -> None:
    assert encoder.dimension == 64
    assert encoder.crop == Crop(size=IMAGE_SIZE, resize=IMAGE_SIZE)
    encoder.warm_up()


def test_pictures_equal_open_clips_own(encoder: OpenClipEncoder, folder: Path) -> None:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    pixels = noise(5)
    normalise = transform.transforms[-1]
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected = model.eval().encode_image(normalise(planes), normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode_pictures(pixels), expected, atol=1e-5)


def test_texts_equal_open_clips_own(encoder: OpenClipEncoder, folder: Path) -> None:
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    texts = ["a cat", "two dogs on a beach", "ein Hund"]
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.inference_mode():
        expected = model.encode_text(tokens, normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode_texts(texts), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("text_tower", "trimmed"),
    [
        ({}, True),
        ({"no_causal_mask": True}, False),
        ({"pool_type": "last"}, False),
        ({"proj_bias": True}, False),
    ],
)
def test_padding_is_left_out_only_where_it_changes_nothing(
    text_tower: dict[str, Any], trimmed: bool
) -> None:
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 50, "width": 32, "heads": 1, "layers": 2}
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        network = open_clip.CLIP(8, vision, text | text_tower).eval()
        tokens = torch.zeros((3, 16), dtype=torch.long)
        for row, length in enumerate((2, 5, 9)):
            tokens[row, : length + 1] = torch.tensor([48, *range(1, length), 49])
        lengths: list[int] = []
        network.transformer.register_forward_pre_hook(
            lambda _, states: lengths.append(states[0].shape[1])
        )
        expected = network.encode_text(tokens)
        torch.testing.assert_close(encode_text(network, tokens), expected, atol=1e-5, rtol=0)
    assert lengths == [16, 10 if trimmed else 16]


def test_vectors_are_unit_float32_and_colours_differ(encoder: OpenClipEncoder) -> None:
    vectors = encoder.encode_pictures(plain(*COLOURS))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similar = vectors @ vectors.T - np.eye(len(COLOURS))
    assert similar.max() < 0.97


def test_batches_are_split_and_give_the_same(folder: Path, encoder: OpenClipEncoder) -> None:
    pixels, texts = noise(7), [f"text {number}" for number in range(7)]
    small = load(folder, batch_size=3)
    np.testing.assert_allclose(
        small.encode_pictures(pixels), encoder.encode_pictures(pixels), atol=1e-5
    )
    np.testing.assert_allclose(small.encode_texts(texts), encoder.encode_texts(texts), atol=1e-5)


def test_nothing_gives_nothing(encoder: OpenClipEncoder) -> None:
    assert encoder.encode_pictures(noise(0)).shape == (0, 64)
    assert encoder.encode_texts([]).shape == (0, 64)


@pytest.mark.parametrize(
    "pixels", [noise(1)[0], noise(1).astype(np.float32), noise(1)[:, :16]], ids=["3d", "f32", "cut"]
)
def test_other_shapes_are_refused(encoder: OpenClipEncoder, pixels: Any) -> None:
    with pytest.raises(ValueError, match="uint8"):
        encoder.encode_pictures(pixels)


def test_bf16_is_close_and_shares_the_fingerprint(folder: Path, encoder: OpenClipEncoder) -> None:
    low = load(folder, precision="bf16")
    assert low.fingerprint == encoder.fingerprint
    pixels = noise(4)
    cosines = (low.encode_pictures(pixels) * encoder.encode_pictures(pixels)).sum(1)
    assert cosines.min() > 0.999


def test_auto_is_bf16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, expected in (("sse2 avx512_bf16", "bf16"), ("fp asimd bf16", "bf16"), ("", "fp32")):
        monkeypatch.setattr(Path, "read_text", lambda _, flags=flags: f"flags : {flags}\n")
        assert Device.pick("cpu", "auto", 1).precision == expected


def test_int8_is_close_and_has_its_own_fingerprint(folder: Path, encoder: OpenClipEncoder) -> None:
    pytest.importorskip("openvino")
    low = load(folder, precision="int8")
    assert low.fingerprint == f"{encoder.fingerprint}-int8v1"
    pixels, texts = noise(5), ["a cat", "two dogs"]
    cosines = (low.encode_pictures(pixels) * encoder.encode_pictures(pixels)).sum(1)
    assert cosines.min() > 0.99
    np.testing.assert_allclose(low.encode_texts(texts), encoder.encode_texts(texts), atol=1e-5)


def test_int8_says_what_it_needs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r"pixtide\[int8\]"):
        load(folder, precision="int8")


# Verdicts


def test_unusable_rows_become_nan_and_the_others_stand() -> None:
    features = torch.tensor([[3.0, 4.0], [0, 0], [torch.nan, 1], [torch.inf, 1], [0, -2]])
    rows = unit_rows(features).numpy()
    assert np.isnan(rows[1:4]).all()
    expected = np.array([[0.6, 0.8], [0, -1]], dtype=np.float32)
    np.testing.assert_allclose(rows[[0, 4]], expected, atol=1e-6)


def test_batches_are_filled_up_to_the_size_that_is_compiled(
    folder: Path, encoder: OpenClipEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def compiles(tower: Any, *, dynamic: bool) -> Any:
        assert not dynamic

        def compiled(planes: torch.Tensor) -> Any:
            sizes.append(len(planes))
            return tower(planes)

        return compiled

    monkeypatch.setattr(torch, "compile", compiles)
    monkeypatch.setattr(torch.backends.mha, "set_fastpath_enabled", lambda _: None)
    device = Device.pick("cpu", "fp32", 4)
    loaded = load_model(f"local-dir:{folder}", device)
    full = OpenClipEncoder(loaded, device, compiled=True)
    for count, expected in ((2, []), (3, [4]), (4, [4]), (9, [4, 4])):
        pixels = noise(count)
        np.testing.assert_allclose(
            full.encode_pictures(pixels), encoder.encode_pictures(pixels), atol=1e-5
        )
        assert sizes == expected
        sizes.clear()


def test_only_a_gpu_has_compiled_models(folder: Path) -> None:
    with pytest.raises(UsageError, match="CUDA"):
        load(folder, compiled=True)


def feign(limit: int, error: Exception) -> Callable[[slice], torch.Tensor]:
    """A forward pass that fails with more than `limit` rows."""

    def forward(batch: slice) -> torch.Tensor:
        if batch.stop - batch.start > limit:
            raise error
        return torch.arange(batch.start, batch.stop).float().add(1).unsqueeze(1)

    return forward


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_batch_and_is_remembered(error: Exception) -> None:
    device = Device.pick("cpu", "fp32", 8)
    np.testing.assert_array_equal(device.encode(13, 1, feign(2, error)), np.ones((13, 1)))
    assert device.batch_size == 2
    seen: list[int] = []

    def forward(batch: slice) -> torch.Tensor:
        seen.append(batch.stop - batch.start)
        return torch.ones(seen[-1], 1)

    device.encode(5, 1, forward)
    assert seen == [2, 2, 1]
    with pytest.raises(TransientError, match="out of memory"):
        device.encode(13, 1, feign(0, error))


def test_a_lost_device_is_fatal() -> None:
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(FatalError, match="illegal memory access"):
        Device.pick("cpu", "fp32", 8).encode(4, 1, feign(0, lost))


@pytest.mark.parametrize(
    ("device", "precision", "batch_size", "hint"),
    [
        ("cpu", "fp16", 32, "fp32 or bf16"),
        ("cuda", "fp32", 32, "choose device cpu"),
        ("tpu", "fp32", 32, "auto, cuda or cpu"),
        ("cpu", "int4", 32, "bf16 or int8"),
        ("cpu", "fp32", 0, "1 or more"),
    ],
)
def test_wrong_device(
    device: str, precision: Any, batch_size: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=hint):
        Device.pick(device, precision, batch_size)
    assert Device.pick("auto", "fp32", 1).torch_device.type == "cpu"


# Texts


def test_long_texts_are_refused_not_cut(encoder: OpenClipEncoder) -> None:
    encoder.check_text(" ".join(["cat"] * (CONTEXT_LENGTH - 2)))
    for text in (" ".join(["cat"] * (CONTEXT_LENGTH - 1)), "x" * 1_000_000):
        with pytest.raises(RequestError) as caught:
            encoder.check_text(text)
        assert caught.value.code == QueryCode.QUERY_TOO_LONG


class FakeHuggingFace:
    """The parts of open_clip's HFTokenizer that are used."""

    context_length = 8
    clean_fn = staticmethod(str.strip)

    def __init__(self, mode: str) -> None:
        self.tokenizer_mode = mode

    def tokenizer(self, text: str, *, add_special_tokens: bool, verbose: bool) -> SimpleNamespace:
        assert not verbose
        return SimpleNamespace(input_ids=text.split() + ["</s>"] * add_special_tokens)


@pytest.mark.parametrize(("mode", "count"), [("", 4), ("clips", 6)])
def test_counting_with_a_hugging_face_tokenizer(mode: str, count: int) -> None:
    assert count_tokens(FakeHuggingFace(mode), " a b c ") == count


# What the model is


def test_fingerprint_is_of_content_and_not_of_place(folder: Path, tmp_path: Path) -> None:
    first = load(folder).fingerprint
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    assert load(moved).fingerprint == first
    assert len(first) == 16
    tiny_clip(tmp_path / "other", seed=1)
    assert load(tmp_path / "other").fingerprint != first


@pytest.mark.parametrize(
    "preprocess", [{"mean": [0.5, 0.5, 0.5]}, {"resize_mode": "squash"}, {"fill_color": 9}]
)
def test_preprocessing_enters_the_fingerprint(
    folder: Path, tmp_path: Path, preprocess: dict[str, Any]
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    written = tmp_path / "open_clip_config.json"
    config = json.loads(written.read_text())
    written.write_text(json.dumps(config | {"preprocess_cfg": preprocess}))
    changed = load(tmp_path)
    assert changed.fingerprint != load(folder).fingerprint
    assert changed.crop.mode == preprocess.get("resize_mode", "shortest")
    assert changed.crop.fill == preprocess.get("fill_color", 0)


def test_one_changed_weight_enters_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "open_clip_model.safetensors")
    weights["logit_scale"] += 1e-3
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    assert load(tmp_path).fingerprint != load(folder).fingerprint


def test_absolute_paths_are_cut_to_their_names() -> None:
    config = {"text_cfg": {"hf_model_name": "/data/models/bert"}, "layers": [1, "/x/y"]}
    expected = {"text_cfg": {"hf_model_name": "bert"}, "layers": [1, "y"]}
    assert model_files._portable(config) == expected


def word_tokenizer(folder: Path, words: str) -> None:
    vocabulary = {word: place for place, word in enumerate(words.split())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def test_hugging_face_tokenizer_of_the_folder(folder: Path, tmp_path: Path) -> None:
    fingerprints = []
    for words in ("[PAD] [UNK] a cat", "[PAD] [UNK] a dog"):
        place = tmp_path / words[-3:]
        shutil.copytree(folder, place)
        written = place / "open_clip_config.json"
        config = json.loads(written.read_text())
        config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "/somewhere/else"
        written.write_text(json.dumps(config))
        word_tokenizer(place, words)
        encoder = load(place)
        encoder.check_text("a " * CONTEXT_LENGTH)
        with pytest.raises(RequestError):
            encoder.check_text("a " * (CONTEXT_LENGTH + 1))
        assert encoder.encode_texts(["a cat"]).shape == (1, 64)
        fingerprints.append(encoder.fingerprint)
    assert len(set(fingerprints)) == 2


@pytest.mark.parametrize(
    ("size", "expected"), [(224, 224), ((64, 64), 64), ([64, 32], None)], ids=str
)
def test_crop_of(size: Any, expected: int | None) -> None:
    preprocess = SimpleNamespace(
        size=size, resize_mode="longest", interpolation="random", fill_color=3
    )
    if expected is None:
        with pytest.raises(UsageError, match="square"):
            crop_of(preprocess)
    else:
        assert crop_of(preprocess) == Crop(expected, expected, "longest", "bicubic", 3)


# Where the model comes from


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("ViT-B-32", "none of architecture::tag"),
        ("ViT-B-33::openai", "did you mean .*ViT-B-32"),
        ("ViT-B-32::no_such_tag", "it knows .*laion2b_s34b_b79k"),
        ("hf-hub:laion/CLIP-ViT-B-32", "names no revision"),
        ("hf-hub:laion/CLIP-ViT-B-32@main", "40 hex digits"),
        ("local-dir:/no/such/folder", "can't be loaded"),
    ],
)
def test_wrong_names_say_what_to_do(model: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        OpenClipEncoder.load(model, device="cpu")


def test_a_folder_without_weights(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "open_clip_config.json", tmp_path)
    with pytest.raises(UsageError, match="holds no weights"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"junk" * 99])
def test_damaged_weights(folder: Path, tmp_path: Path, content: bytes) -> None:
    shutil.copy(folder / "open_clip_config.json", tmp_path)
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="can't be loaded"):
            load(tmp_path)
        (tmp_path / name).unlink()


def test_the_hashed_weights_are_those_that_open_clip_loads(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "open_clip_config.json", tmp_path)
    for name in reversed(model_files._WEIGHTS):
        (tmp_path / name).touch()
        assert model_files._in_folder(tmp_path).weights.name == name
        assert _find_checkpoint_in_dir(tmp_path) == str(tmp_path / name)


def test_a_tag_loads_the_file_that_was_hashed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "Tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "Tiny.json")
    trained = {"hf_hub": "nobody/", "mean": (0.5, 0.5, 0.5), "quick_gelu": True}
    weights = str(folder / "open_clip_model.safetensors")
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: trained)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: weights)
    encoder = OpenClipEncoder.load("Tiny::seeded", device="cpu")
    assert encoder.fingerprint != load(folder).fingerprint  # another activation, another mean
    assert encoder._network.visual.preprocess_cfg["mean"] == (0.5, 0.5, 0.5)
    assert type(encoder._network.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


class FakeHub:
    """`snapshot_download` over a folder that stands for the hub, and counts what it is asked."""

    def __init__(self, hub: Path, cache: Path) -> None:
        self.hub, self.cache = hub, cache
        self.fetched: list[str] = []

    def __call__(
        self, repository: str, *, revision: str, allow_patterns: list[str], local_files_only: bool
    ) -> str:
        assert (repository, revision) == ("org/name", REVISION)
        if local_files_only and not self.cache.exists():
            raise FileNotFoundError(self.cache)
        self.cache.mkdir(exist_ok=True)
        for name in [] if local_files_only else allow_patterns:
            if (self.hub / name).exists():
                shutil.copy(self.hub / name, self.cache)
                self.fetched.append(name)
        return str(self.cache)


def test_the_hub_is_asked_for_one_commit_and_only_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub(folder, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    for _ in range(2):
        encoder = OpenClipEncoder.load(f"hf-hub:org/name@{REVISION}", device="cpu")
        assert encoder.fingerprint == load(folder).fingerprint
    assert hub.fetched == ["open_clip_config.json", "open_clip_model.safetensors"]


def test_a_hub_repository_that_is_no_open_clip_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "model.safetensors").touch()
    hub = FakeHub(tmp_path / "hub", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    with pytest.raises(UsageError, match="no open_clip model"):
        OpenClipEncoder.load(f"hf-hub:org/name@{REVISION}", device="cpu")
    assert hub.fetched == []
