"""The starter's two networks, in plain torch.

timm and transformers have both networks, and the tests compare these with them. But importing the
two takes several seconds in each process, and two small networks for inference don't need them.

Sources: EfficientNet-Lite0 as timm's `efficientnet_lite0` (Tan and Le 2019, arXiv:1905.11946; the
Lite variants have no squeeze-and-excitation, and ReLU6), and BERT (Devlin et al. 2018,
arXiv:1810.04805) in the shape of all-MiniLM-L6-v2, with mean pooling.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pixtide.encoders.starter.classes import Concepts

#: (expansion, channels, repeats, stride, kernel) of each stage.
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
_STEM, _HEAD, _CLASSES = 32, 1280, 1000
_HEADS, _LAYERS, _EPSILON = 12, 6, 1e-12
#: all-MiniLM-L6-v2's `max_seq_length`, including its two markers.
CONTEXT_LENGTH = 256


def load_classifier(weights: Path) -> nn.Sequential:
    """EfficientNet-Lite0: float (n, 3, 224, 224) to the logits (n, 1000) of ImageNet-1k.

    All layers but the last give the features (n, 1280), 0 or more, from which the logits are
    computed.

    Raises:
        ValueError: the weights don't fit, tensor by tensor in their order.
    """
    stored = torch.load(weights, map_location="cpu", weights_only=True)
    with torch.device("meta"):  # the stored tensors become the network's own
        network = _lite0()
    expected = network.state_dict()
    if [tensor.shape for tensor in stored.values()] != [t.shape for t in expected.values()]:
        raise ValueError(f"{weights.name} holds no EfficientNet-Lite0")
    network.load_state_dict(dict(zip(expected, stored.values(), strict=True)), assign=True)
    network.eval()
    for unit in network.modules():
        if isinstance(unit, _Unit):
            unit.fuse()
    return network


def _lite0() -> nn.Sequential:
    layers: list[nn.Module] = [_Unit(3, _STEM, 3, stride=2)]
    inside = _STEM
    for expansion, outside, repeats, first_stride, kernel in _STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            layers.append(_Block(inside, outside, expansion, kernel, stride))
            inside = outside
    layers.append(_Unit(inside, _HEAD, 1))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_HEAD, _CLASSES)]
    return nn.Sequential(*layers)


class _Unit(nn.Module):
    """Convolution, batch normalisation, ReLU6."""

    def __init__(
        self, inside: int, outside: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.normalisation: nn.Module = nn.BatchNorm2d(outside)
        self.activation: nn.Module = nn.ReLU6(inplace=True)

    def fuse(self) -> None:
        """Fold the normalisation into the convolution; the outputs stay the same."""
        if isinstance(self.normalisation, nn.BatchNorm2d):
            self.convolution = fuse_conv_bn_eval(self.convolution, self.normalisation)
            self.normalisation = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.activation(self.normalisation(self.convolution(x)))
        return activated


class _Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; the narrow ends are linear."""

    def __init__(self, inside: int, outside: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inside * expansion
        units = [_Unit(inside, wide, 1)] if expansion > 1 else []
        units.append(_Unit(wide, wide, kernel, stride=stride, groups=wide))
        units.append(_Unit(wide, outside, 1))
        units[-1].activation = nn.Identity()
        self.units = nn.Sequential(*units)
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        narrow: Tensor = self.units(x)
        return x + narrow if self.adds else narrow


def looks(features: Tensor) -> Tensor:
    """The classifier's features (n, 1280) as concepts need them: square roots, as unit rows."""
    return functional.normalize(features.clamp(min=0).sqrt(), dim=-1)


class ConceptMixer:
    """Features (n, 1280) to the mean (n, 384) of the concepts' vectors, weighted by probability."""

    def __init__(self, concepts: Concepts, device: torch.device) -> None:
        arrays = (concepts.head, concepts.bias, concepts.vectors)
        self._head, self._bias, self._vectors = (torch.from_numpy(a).to(device) for a in arrays)

    def __call__(self, features: Tensor) -> Tensor:
        """The mean for float32 features."""
        return (looks(features) @ self._head + self._bias).softmax(-1) @ self._vectors


class SentenceEncoder:
    """all-MiniLM-L6-v2: texts to the mean (n, 384) of their tokens' states, not normalised.

    `dtype` is that of the matrix products, which are nearly all of the work; their results are
    added up and normalised in float32. With bf16 products, vectors keep a cosine of 0.9999 to those
    with float32, and take half the time if the CPU multiplies bf16 natively.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        stored = {
            name: tensor.to(device, torch.float32)
            for name, tensor in load_file(folder / "model.safetensors").items()
            if tensor.is_floating_point()
        }
        self._embeddings = _Embeddings(stored)
        self._layers = [_Layer(stored, f"encoder.layer.{n}", dtype) for n in range(_LAYERS)]
        self._device = device
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(CONTEXT_LENGTH)
        self._tokenizer.enable_padding()
        self._counter: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._counter.no_truncation()
        self._counter.no_padding()

    def count_tokens(self, text: str) -> int:
        """The number of tokens of a text, including its two markers."""
        return len(self._counter.encode(text).ids)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Encode texts, the first 256 tokens of each."""
        encodings = self._tokenizer.encode_batch(list(texts))
        ids = torch.tensor([encoding.ids for encoding in encodings], device=self._device)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], dtype=torch.bool)
        mask = mask.to(self._device)
        x = self._embeddings(ids)
        for layer in self._layers:
            x = layer(x, mask)
        shown = mask.unsqueeze(-1).float()
        return (x * shown).sum(1) / shown.sum(1)


class _Embeddings:
    """Token numbers (n, tokens) to states (n, tokens, 384)."""

    def __init__(self, stored: dict[str, Tensor]) -> None:
        self._words = stored["embeddings.word_embeddings.weight"]
        kind = stored["embeddings.token_type_embeddings.weight"][0]
        self._positions = stored["embeddings.position_embeddings.weight"] + kind
        self._normalised = _LayerNorm(stored, "embeddings.LayerNorm")

    def __call__(self, ids: Tensor) -> Tensor:
        return self._normalised(self._words[ids] + self._positions[: ids.shape[1]])


class _Layer:
    """Attention and a feed-forward network, each added to its input and normalised."""

    def __init__(self, stored: dict[str, Tensor], name: str, dtype: torch.dtype) -> None:
        attention = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        self._query_key_value = _Linear(stored, attention, dtype)
        self._attended = _Linear(stored, [f"{name}.attention.output.dense"], dtype)
        self._after_attention = _LayerNorm(stored, f"{name}.attention.output.LayerNorm")
        self._wide = _Linear(stored, [f"{name}.intermediate.dense"], dtype)
        self._narrow = _Linear(stored, [f"{name}.output.dense"], dtype)
        self._after_all = _LayerNorm(stored, f"{name}.output.LayerNorm")

    def __call__(self, x: Tensor, mask: Tensor) -> Tensor:
        split = self._query_key_value(x).view(*x.shape[:2], 3, _HEADS, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask[:, None, None, :]
        )
        x = self._after_attention(x + self._attended(attended.transpose(1, 2).flatten(2)))
        return self._after_all(x + self._narrow(functional.gelu(self._wide(x))))


class _Linear:
    """A matrix product in `dtype` for float states; several with the same input are combined."""

    def __init__(self, stored: dict[str, Tensor], names: Sequence[str], dtype: torch.dtype) -> None:
        self._weight, self._bias = (
            torch.cat([stored[f"{name}.{part}"] for name in names]).to(dtype)
            for part in ("weight", "bias")
        )

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x.to(self._weight.dtype), self._weight, self._bias)


class _LayerNorm:
    def __init__(self, stored: dict[str, Tensor], name: str) -> None:
        self._weight, self._bias = stored[f"{name}.weight"], stored[f"{name}.bias"]

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self._weight.shape, self._weight, self._bias, _EPSILON)
