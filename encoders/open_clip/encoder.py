"""The production encoder: adapts any open_clip model to the `Encoder` port."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import open_clip
import torch

from pixtide.encoders.device import Device, Normalisation, Precision, check_pixels
from pixtide.encoders.open_clip.int8 import eight_bit_pictures
from pixtide.encoders.open_clip.model_files import LoadedModel, load_model
from pixtide.encoders.open_clip.text import encode_text
from pixtide.encoders.port import EIGHT_BIT, Crop, Pixels, Vectors
from pixtide.schemas.errors import QueryCode, RequestError, UsageError

#: No text with more characters per token than this fits. Such a text is not even tokenised, since
#: the time of byte pair encoding grows with the square of a word's length.
_LONGEST_TOKEN = 16
#: Tokens that open_clip's "clips" mode adds around a text: begin, end, class.
_CLIPS_EXTRA = 3


class OpenClipEncoder:
    """An open_clip model; `load` makes one. Vectors are float32 of unit length."""

    def __init__(self, loaded: LoadedModel, device: Device, *, compiled: bool = False) -> None:
        self._network = loaded.network
        self._tokenizer = loaded.tokenizer
        self._device = device
        self.fingerprint = loaded.fingerprint
        self.dimension = loaded.dimension
        self.crop = crop_of(loaded.preprocess)
        self._picture_tower = self._network.encode_image
        if device.precision == "int8":
            self._picture_tower = eight_bit_pictures(self._network, self.crop.size)
            self.fingerprint += EIGHT_BIT
        if compiled:
            self._picture_tower = compile_full_batches(self._picture_tower, device)
        self._normalised = Normalisation(device, loaded.preprocess.mean, loaded.preprocess.std)

    @classmethod
    def load(
        cls,
        model: str,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int = 32,
        compiled: bool = False,
    ) -> Self:
        """Load a model by its specification.

        Args:
            model: `ViT-B-32::laion2b_s34b_b79k` (architecture::tag),
                `hf-hub:organisation/name@revision`, or `local-dir:/folder`.
            device: `auto` (CUDA if there is one), `cuda` or `cpu`.
            precision: `auto` uses bf16 if the device computes with it. `int8` is for pictures on a
                CPU; its vectors are not comparable with others.
            batch_size: the most pictures or texts that run at once.
            compiled: compile the picture tower with torch, on a CUDA device.

        Raises:
            UsageError: the model can't be loaded, or not on this device in this precision.
        """
        place = Device.pick(device, precision, batch_size)
        if compiled and place.torch_device.type != "cuda":
            raise UsageError(
                "only on a CUDA device is a model compiled; leave PIXTIDE_COMPILE unset"
            )
        return cls(load_model(model, place), place, compiled=compiled)

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda"."""
        return self._device.torch_device.type

    def warm_up(self) -> None:
        """Run both towers once.

        On a GPU with a full batch, since its size decides which kernels run.
        """
        rows = self._device.batch_size if self._device.torch_device.type == "cuda" else 1
        self.encode_pictures(np.zeros((rows, self.crop.size, self.crop.size, 3), np.uint8))
        self.encode_texts(["a photo"])

    def encode_pictures(self, pixels: Pixels) -> Vectors:
        """Encode uint8 RGB of shape (n, size, size, 3) to (n, dimension).

        Raises:
            ValueError: the shape or type is wrong.
            TransientError: the device is out of memory even for one picture.
            FatalError: the device is lost.
        """
        check_pixels(pixels, self.crop.size)

        def forward(batch: slice) -> torch.Tensor:
            features: torch.Tensor = self._picture_tower(self._normalised(pixels[batch]))
            return features

        return self._device.encode(len(pixels), self.dimension, forward)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encode texts to (n, dimension); texts longer than the context length are cut off.

        Raises:
            TransientError: the device is out of memory even for one text.
            FatalError: the device is lost.
        """
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        tokens = self._tokenizer(list(texts)).numpy()

        def forward(batch: slice) -> torch.Tensor:
            return encode_text(self._network, self._device.upload(tokens[batch]))

        return self._device.encode(len(texts), self.dimension, forward)

    def check_text(self, text: str) -> None:
        """Raises RequestError QUERY_TOO_LONG for a text that the model would truncate."""
        limit: int = self._tokenizer.context_length
        too_many_characters = len(text) > limit * _LONGEST_TOKEN
        if too_many_characters or count_tokens(self._tokenizer, text) > limit:
            raise RequestError(
                QueryCode.QUERY_TOO_LONG, f"the text has more than the model's {limit} tokens"
            )


def compile_full_batches(
    tower: Callable[[torch.Tensor], torch.Tensor], device: Device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Compile a picture tower with torch for one batch size, since each size takes a minute.

    A batch of more than half that size is padded to it; a smaller one runs uncompiled.
    """
    # MultiheadAttention's own fast path is one opaque step, which torch would not compile
    torch.backends.mha.set_fastpath_enabled(False)
    compiled = torch.compile(tower, dynamic=False)

    def forward(planes: torch.Tensor) -> torch.Tensor:
        missing = device.batch_size - len(planes)  # another thread may have shrunk it
        if missing < 0 or missing >= len(planes):
            return tower(planes)
        full = torch.cat([planes, planes[:missing]]) if missing else planes
        return compiled(full)[: len(planes)]

    return forward


def crop_of(preprocess: Any) -> Crop:
    """How open_clip's own evaluation transform would crop a picture.

    Raises:
        UsageError: the model's input is not square.
    """
    sides = {preprocess.size} if isinstance(preprocess.size, int) else set(preprocess.size)
    if len(sides) != 1:
        raise UsageError(f"the model's input is {preprocess.size}; only square ones are supported")
    size = int(sides.pop())
    return Crop(
        size=size,
        resize=size,
        mode=preprocess.resize_mode,
        # open_clip also treats "random", a training setting, as bicubic
        interpolation="bilinear" if preprocess.interpolation == "bilinear" else "bicubic",
        fill=preprocess.fill_color,
    )


def count_tokens(tokenizer: Any, text: str) -> int:
    """How many tokens an open_clip tokenizer makes of a whole text, including its markers."""
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        return len(tokenizer.encode(text)) + 2
    clean = tokenizer.clean_fn(text)
    clips = tokenizer.tokenizer_mode == "clips"
    tokens = tokenizer.tokenizer(clean, add_special_tokens=not clips, verbose=False).input_ids
    return len(tokens) + (_CLIPS_EXTRA if clips else 0)
